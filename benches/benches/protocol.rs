//! Hot parts of the SMTP path: commands, the framing of DATA, checksums, the stamp.
//! `cargo bench -p chasqui-benches`.

use std::hint::black_box;
use std::rc::Rc;

use chasqui_protocol::smtp::server::{EarlyTalkers, Event, Options, Session};
use chasqui_protocol::stamp;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn body(bytes: usize) -> Vec<u8> {
    let line = b"The runners passed the message from station to station along the road.\r\n";
    line.iter().copied().cycle().take(bytes / line.len() * line.len()).collect()
}

/// Feeds `input` and answers every question with yes.
fn feed(session: &mut Session, input: &[u8]) -> usize {
    let (mut rest, mut events) = (input, 0);
    loop {
        let (used, event) = session.handle_input(rest);
        rest = &rest[used..];
        events += 1;
        match event {
            Event::NeedInput => break,
            Event::OutputFull => session.output().clear(),
            Event::Mail(_) | Event::Rcpt(_) | Event::Data | Event::BodyEnd(_) => session.accept(),
            _ => {}
        }
    }
    session.output().clear();
    events
}

fn session() -> Session {
    // A whole message is given at once, without waiting for the replies.
    let options = Options { early_talkers: EarlyTalkers::Allow, max_junk: usize::MAX, ..Options::default() };
    let mut session = Session::new(Rc::new(options));
    feed(&mut session, b"EHLO bench.example\r\n");
    session
}

fn commands(criterion: &mut Criterion) {
    let mut session = session();
    let input = b"MAIL FROM:<0123456789abcdef.12345@bounce.chasqui.test> SIZE=2048\r\n\
                  RCPT TO:<u12@d7.chasqui.test>\r\nRSET\r\n";
    criterion.bench_function("commands: MAIL RCPT RSET", |bencher| {
        bencher.iter(|| feed(&mut session, black_box(input)));
    });
}

fn data(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("message through the server session");
    for bytes in [2 * 1024, 100 * 1024] {
        let mut input = b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n".to_vec();
        input.extend(body(bytes));
        input.extend(b".\r\n");
        let mut session = session();
        group.throughput(Throughput::Bytes(input.len() as u64));
        group.bench_function(format!("{} KiB", bytes / 1024), |bencher| {
            bencher.iter(|| feed(&mut session, black_box(&input)));
        });
    }
    group.finish();
}

fn checksums(criterion: &mut Criterion) {
    let body = body(2048);
    let header = b"From: <a@b.example>\r\nTo: <c@d.example>\r\nSubject: bench\r\n\r\n";
    let mut message = stamp::write(1, 2, header, &body);
    message.extend_from_slice(header);
    message.extend_from_slice(&body);
    let mut group = criterion.benchmark_group("checksums of 2 KiB");
    group.throughput(Throughput::Bytes(message.len() as u64));
    group.bench_function("crc32c", |bencher| bencher.iter(|| crc32c::crc32c(black_box(&message))));
    group.bench_function("stamp written", |bencher| {
        bencher.iter(|| stamp::write(1, 2, black_box(header), black_box(&body)));
    });
    group.bench_function("stamp verified", |bencher| bencher.iter(|| stamp::verify(black_box(&message))));
    group.finish();
}

criterion_group!(benches, commands, data, checksums);
criterion_main!(benches);
