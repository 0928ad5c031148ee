//! An SMTP client that sends exactly what it is told to.

use std::io;
use std::net::{self, SocketAddr};

use chasqui_protocol::smtp::data::stuff;
use chasqui_runtime::net::{ConnectOptions, TcpStream};

use crate::Stream;
use crate::stream::{limited, on_this_thread};

/// A client of a task. [`Blocking`] is the same for a thread.
#[derive(Debug)]
pub struct Client<S = TcpStream> {
    stream: S,
    input: Vec<u8>,
    /// What the server has advertised.
    keywords: Vec<String>,
}

impl Client {
    /// Connects, and says EHLO when it has been greeted. `Err`: the reply that refused it.
    pub async fn connect(address: SocketAddr) -> Result<Client, String> {
        let stream = TcpStream::connect(address, &ConnectOptions::default()).await;
        let mut client = Client::new(stream.expect("the server listens"));
        client.hello().await.map(|()| client)
    }
}

impl<S: Stream> Client<S> {
    /// Over a connection that was made elsewhere; the greeting is still to be read.
    pub fn new(stream: S) -> Client<S> {
        Client { stream, input: Vec::new(), keywords: Vec::new() }
    }

    async fn hello(&mut self) -> Result<(), String> {
        let greeting = self.reply().await;
        if !greeting.starts_with("220") {
            return Err(greeting);
        }
        self.write(b"EHLO client.test\r\n").await.map_err(|error| error.to_string())?;
        let reply = self.reply().await;
        if !reply.starts_with("250") {
            return Err(reply);
        }
        self.keywords = reply.lines().skip(1).map(|line| line[4..].to_owned()).collect();
        Ok(())
    }

    /// Whether the server has advertised this keyword, without its parameters.
    pub fn has(&self, keyword: &str) -> bool {
        self.keywords.iter().any(|line| line.split(' ').next() == Some(keyword))
    }

    /// Sends octets.
    pub async fn write(&mut self, octets: &[u8]) -> io::Result<()> {
        self.stream.send(octets).await
    }

    /// The next line with its end; what there was before the end of the stream.
    pub async fn line(&mut self) -> String {
        loop {
            let end = self.input.iter().position(|octet| *octet == b'\n').map(|at| at + 1);
            let end = match end {
                Some(end) => end,
                None => match self.stream.receive().await {
                    Ok(piece) if !piece.is_empty() => {
                        self.input.extend(piece);
                        continue;
                    }
                    // A reset is an end too; silence is not.
                    Err(error) if error.kind() != io::ErrorKind::ConnectionReset => {
                        panic!("no line: {error}")
                    }
                    _ => self.input.len(),
                },
            };
            let line: Vec<u8> = self.input.drain(..end).collect();
            return String::from_utf8(line).expect("replies are ASCII");
        }
    }

    /// The next reply, all of its lines; empty when the connection was closed.
    pub async fn reply(&mut self) -> String {
        let mut reply = String::new();
        loop {
            let line = self.line().await;
            reply.push_str(&line);
            if line.as_bytes().get(3) != Some(&b'-') {
                return reply;
            }
        }
    }

    /// Sends a command; its reply.
    pub async fn command(&mut self, command: &str) -> String {
        // The reply says more about a connection that breaks.
        let _broken = self.write(format!("{command}\r\n").as_bytes()).await;
        self.reply().await
    }

    /// Sends one command; its reply must begin with `reply`.
    pub async fn expect(&mut self, command: &str, reply: &str) -> String {
        let got = self.command(command).await;
        assert!(got.starts_with(reply), "{command}: expected {reply}, got {got:?}");
        got
    }

    /// Sends a message as it is, without its dots; for each recipient the first line of the reply that decided over it.
    /// `None`: the connection was lost before it.
    pub async fn send(&mut self, from: &str, to: &[&str], message: &[u8]) -> Option<Vec<String>> {
        let mut mail = format!("MAIL FROM:<{from}>");
        if self.has("SIZE") {
            mail += &format!(" SIZE={}", message.len());
        }
        if self.has("8BITMIME") && !message.is_ascii() {
            mail += " BODY=8BITMIME";
        }
        let recipients: Vec<String> = to.iter().map(|recipient| format!("RCPT TO:<{recipient}>")).collect();
        self.transact(&mail, &recipients, message).await
    }

    /// As [`Client::send`], with whole commands.
    pub async fn transact(
        &mut self,
        mail: &str,
        recipients: &[String],
        message: &[u8],
    ) -> Option<Vec<String>> {
        let begun = self.begin(mail, recipients).await?;
        let mut decision = String::new();
        if begun.goes_on {
            self.body(message).await.ok()?;
            decision = self.decision().await?;
        }
        Some(begun.refusals.into_iter().map(|refusal| refusal.unwrap_or_else(|| decision.clone())).collect())
    }

    /// MAIL, RCPT and DATA, in one piece where the server has PIPELINING.
    async fn begin(&mut self, mail: &str, recipients: &[String]) -> Option<Begun> {
        let mut commands = vec![mail];
        commands.extend(recipients.iter().map(String::as_str));
        commands.push("DATA");
        let mut replies = Vec::new();
        if self.has("PIPELINING") {
            let whole: String = commands.iter().map(|command| format!("{command}\r\n")).collect();
            self.write(whole.as_bytes()).await.ok()?;
            for _ in &commands {
                replies.push(self.decision().await?);
            }
        } else {
            for command in &commands {
                self.write(format!("{command}\r\n").as_bytes()).await.ok()?;
                replies.push(self.decision().await?);
            }
        }
        let (data, mail) = (replies.pop()?, replies.remove(0));
        let refusal = |reply: String| {
            [&mail, &reply, &data].into_iter().find(|reply| reply.starts_with(['4', '5'])).cloned()
        };
        let goes_on = data.starts_with("354");
        Some(Begun { refusals: replies.into_iter().map(refusal).collect(), goes_on })
    }

    /// Sends a message as it is, with dots and end.
    pub async fn body(&mut self, message: &[u8]) -> io::Result<()> {
        let mut wire = Vec::new();
        stuff(message, &mut wire);
        wire.extend_from_slice(b".\r\n");
        self.write(&wire).await
    }

    /// The first line of the next reply, without its end. `None`: there is none any more.
    async fn decision(&mut self) -> Option<String> {
        let reply = self.reply().await;
        reply.lines().next().map(str::to_owned)
    }
}

/// What MAIL, RCPT and DATA were answered.
#[derive(Debug)]
struct Begun {
    /// For each recipient what refused it.
    refusals: Vec<Option<String>>,
    /// The message is wanted.
    goes_on: bool,
}

/// A client of a thread; its methods are those of [`Client`].
#[derive(Debug)]
pub struct Blocking(Client<net::TcpStream>);

impl Blocking {
    /// As [`Client::new`], over a connection that is made now.
    pub fn open(address: SocketAddr) -> Blocking {
        Blocking::new(net::TcpStream::connect(address).expect("the server listens"))
    }

    /// As [`Client::new`].
    pub fn new(stream: net::TcpStream) -> Blocking {
        Blocking(Client::new(limited(stream)))
    }

    /// As [`Client::connect`].
    pub fn connect(address: SocketAddr) -> Result<Blocking, String> {
        let mut client = Blocking::open(address);
        on_this_thread(client.0.hello()).map(|()| client)
    }

    /// The connection.
    pub fn stream(&self) -> &net::TcpStream {
        &self.0.stream
    }

    /// As [`Client::has`].
    pub fn has(&self, keyword: &str) -> bool {
        self.0.has(keyword)
    }

    /// As [`Client::write`]; the server must read.
    pub fn write(&mut self, octets: &[u8]) {
        on_this_thread(self.0.write(octets)).expect("the server reads");
    }

    /// As [`Client::line`].
    pub fn line(&mut self) -> String {
        on_this_thread(self.0.line())
    }

    /// All lines until the end of the stream.
    pub fn rest(&mut self) -> String {
        std::iter::from_fn(|| Some(self.line()).filter(|line| !line.is_empty())).collect()
    }

    /// As [`Client::reply`].
    pub fn reply(&mut self) -> String {
        on_this_thread(self.0.reply())
    }

    /// As [`Client::command`].
    pub fn command(&mut self, command: &str) -> String {
        on_this_thread(self.0.command(command))
    }

    /// As [`Client::expect`].
    pub fn expect(&mut self, command: &str, reply: &str) -> String {
        on_this_thread(self.0.expect(command, reply))
    }

    /// As [`Client::send`]; there must be an answer.
    pub fn send(&mut self, from: &str, to: &[&str], message: &[u8]) -> Vec<String> {
        self.try_send(from, to, message).expect("an answer")
    }

    /// As [`Client::send`].
    pub fn try_send(&mut self, from: &str, to: &[&str], message: &[u8]) -> Option<Vec<String>> {
        on_this_thread(self.0.send(from, to, message))
    }

    /// As [`Client::transact`].
    pub fn transact(&mut self, mail: &str, recipients: &[String], message: &[u8]) -> Option<Vec<String>> {
        on_this_thread(self.0.transact(mail, recipients, message))
    }
}
