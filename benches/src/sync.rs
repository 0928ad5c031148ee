//! Time of one fdatasync after a 4 KiB append, once through a shard's ring and once on a plain thread.
//!
//! `cargo run --release -p chasqui-benches --bin sync -- [FOLDER] [COUNT]` makes a file of 16 MiB in FOLDER (the
//! current one by default), removes it, and prints one line of JSON with quantiles in microseconds.

use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chasqui_runtime::fs::Segment;
use chasqui_runtime::{Config, now, run};

const SEGMENT: u64 = 16 << 20;
const BLOCK: u64 = 4096;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().unwrap_or_else(|| ".".into()));
    let count: u64 = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(500);
    let path = folder.join("sync-bench.tmp");
    let ring = through_ring(&path, count);
    std::fs::remove_file(&path).expect("the file was just made");
    let thread = on_thread(&path, count);
    std::fs::remove_file(&path).expect("the file was just made");
    println!("{{\"ring_us\":{},\"thread_us\":{}}}", quantiles(ring), quantiles(thread));
}

fn quantiles(mut times: Vec<Duration>) -> String {
    times.sort();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_micros();
    format!("{{\"p50\":{},\"p90\":{},\"p99\":{}}}", at(0.5), at(0.9), at(0.99))
}

fn through_ring(path: &Path, count: u64) -> Vec<Duration> {
    let path = path.to_owned();
    run(Config::default(), move || {
        let path = path.clone();
        async move {
            let segment = Segment::create(&path, SEGMENT).await.expect("the folder can be written");
            let mut times = Vec::new();
            for index in 0..count {
                let offset = index * BLOCK % SEGMENT;
                segment.append_at(offset, &[&[index as u8 | 1; BLOCK as usize]]).expect("it fits");
                let start = now();
                segment.sync().await.expect("the disk is well");
                times.push(now() - start);
            }
            times
        }
    })
    .expect("the shard starts")
}

fn on_thread(path: &Path, count: u64) -> Vec<Duration> {
    let mut file = std::fs::File::create(path).expect("the folder can be written");
    file.write_all(&vec![0; SEGMENT as usize]).expect("there is room");
    file.sync_all().expect("the disk is well");
    (0..count)
        .map(|index| {
            file.write_at(&[index as u8 | 1; BLOCK as usize], index * BLOCK % SEGMENT).expect("it fits");
            let start = now();
            file.sync_data().expect("the disk is well");
            now() - start
        })
        .collect()
}
