"""Hosts that are no good: each kind is a coroutine that serves one connection."""

import asyncio
import socket

GREETING, EHLO = b"220 mx\r\n", b"250-mx\r\n250 PIPELINING\r\n"
LONG_S = 3600
DRIP_EVERY_S = 0.5


async def drip(writer, octets=b"220-hello "):
    while True:
        for octet in octets:
            writer.write(bytes([octet]))
            await writer.drain()
            await asyncio.sleep(DRIP_EVERY_S)


async def flood(writer, line=b"250-more\r\n"):
    while True:
        writer.write(line * 1000)
        await writer.drain()


async def silence(_writer):
    await asyncio.sleep(LONG_S)


async def close(writer):
    writer.close()
    raise ConnectionAbortedError


async def read_body(reader):
    tail = b"\r\n"
    while not tail.endswith(b"\r\n.\r\n"):
        piece = await reader.read(65536)
        if not piece:
            raise ConnectionAbortedError
        tail = (tail + piece)[-5:]


def script(greeting=GREETING, ehlo=EHLO, mail=b"250 ok\r\n", rcpt=b"250 ok\r\n", data=b"354 go\r\n", end=b"250 ok\r\n",
           reads=True):
    """A receiver; each answer is octets, or a coroutine function that is given the writer."""
    answers = {b"EHLO": ehlo, b"HELO": b"250 mx\r\n", b"MAIL": mail, b"RCPT": rcpt}

    async def serve(reader, writer):
        async def say(what):
            if callable(what):
                await what(writer)
            else:
                writer.write(what)
                await writer.drain()

        await say(greeting)
        while line := await reader.readline():
            word = line[:4].upper()
            if word == b"DATA":
                await say(data)
                if not reads:
                    writer.transport.pause_reading()
                    await asyncio.sleep(LONG_S)
                await read_body(reader)
                await say(end)
            elif word == b"QUIT":
                await say(b"221 bye\r\n")
                return
            else:
                await say(answers.get(word, b"250 ok\r\n"))

    return serve


# Hosts that hold a connection for as long as they are let.
SLOW = {
    "drip": script(greeting=drip),
    "mute": script(greeting=silence),
    "deaf": script(reads=False),
    "enddrip": script(end=lambda writer: drip(writer, b"250-still ")),
    "endmute": script(end=silence),
}

# Hosts that answer what no host should.
ODD = {
    "flood": script(greeting=lambda writer: flood(writer, b"220-more\r\n")),
    "floodehlo": script(ehlo=flood),
    "endless": script(mail=lambda writer: flood(writer, b"2" * 100)),
    "nul": script(ehlo=b"250-\0\0\r\n250 \0PIPELINING\0\r\n"),
    "http": script(greeting=b"HTTP/1.1 400 Bad Request\r\n"),
    "twice": script(rcpt=b"250 a\r\n250 b\r\n354 c\r\n"),
    "gone": script(mail=close),
    "gonedata": script(data=close),
    "goneend": script(end=close),
    "refused": script(end=b"550 5.7.1 a\rb\x1b[31m\0\xff\"}\r\n"),
    "later": script(mail=b"421 4.3.2 later\r\n"),
    "nonsense": script(end=b"999 what\r\n"),
}


async def listen(address, port, serve):
    async def connection(reader, writer):
        try:
            await serve(reader, writer)
        except (OSError, asyncio.IncompleteReadError, ValueError):
            pass
        finally:
            writer.close()

    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    server.bind((address, port))
    return await asyncio.start_server(connection, sock=server, backlog=1024)
