//! `chasqui spool export`.

use super::text::{Escaped, count};
use super::{DAMAGED, json, open};
use crate::arguments::Export;
use crate::exit::Failure;
use crate::output::to_stdout;
use chasqui_relay::spool::MessageId;
use chasqui_relay::spool::offline::{MessageError, Salvaged, Shard, salvage};
use serde_json::{Value, json};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Default)]
struct Sums {
    exported: u64,
    octets: u64,
    salvaged: u64,
    gone: u64,
    /// Messages that could not be written whole; a line each.
    damaged: Vec<String>,
}

pub(super) fn run(options: &Export) -> Result<ExitCode, Failure> {
    refuse_full(&options.out)?;
    let shards = open(&options.dir)?;
    make(&options.out)?;
    let mut sums = Sums::default();
    for shard in &shards {
        export(shard, options, &mut sums)?;
        if options.quarantine {
            export_salvaged(shard, options, &mut sums)?;
        }
    }
    to_stdout(|out| print(&sums, options, out))?;
    Ok(if sums.damaged.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(DAMAGED) })
}

fn refuse_full(dir: &Path) -> Result<(), Failure> {
    match std::fs::read_dir(dir).map(|mut entries| entries.next().is_none()) {
        Ok(true) => Ok(()),
        Ok(false) => {
            Err(Failure::Usage(format!("{} is not empty: name another folder with --out", dir.display())))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Failure::Usage(format!("cannot use {} for --out: {error}", dir.display()))),
    }
}

/// Makes a folder that is the user's alone: mail is nobody else's to read.
fn make(dir: &Path) -> Result<(), Failure> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|error| cannot_write(dir, &error))
}

fn export(shard: &Shard, options: &Export, sums: &mut Sums) -> Result<(), Failure> {
    let ids = &options.selection.ids;
    for queued in shard.messages().filter(|queued| ids.is_empty() || ids.contains(&queued.id())) {
        let message = match queued.message() {
            Ok(message) if options.selection.takes(&message) => message,
            Ok(_) => continue,
            Err(error) => {
                sums.take_fault(queued.id(), error)?;
                continue;
            }
        };
        let files = Files::of(&options.out, queued.id());
        match files.write_eml(|out| queued.write_eml(out))? {
            Ok(octets) => {
                files.write_json(&json::message(shard.number, &message))?;
                sums.exported += 1;
                sums.octets += octets;
            }
            Err(error) => sums.take_fault(queued.id(), error)?,
        }
    }
    Ok(())
}

fn export_salvaged(shard: &Shard, options: &Export, sums: &mut Sums) -> Result<(), Failure> {
    let found = salvage(shard)
        .map_err(|error| Failure::internal("cannot look for what is left of damaged mail", error))?;
    let takes = |it: &Salvaged| match &it.message {
        Some(message) => options.selection.takes(message),
        None => options.selection.ids.is_empty() || options.selection.ids.contains(&it.id),
    };
    let dir = options.out.join("quarantine");
    for salvaged in found.iter().filter(|it| takes(it)) {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .map_err(|error| cannot_write(&dir, &error))?;
        let files = Files::of(&dir, salvaged.id);
        match files.write_eml(|out| salvaged.write_eml(out))? {
            Ok(octets) => {
                let mut value = match &salvaged.message {
                    Some(message) => json::message(shard.number, message),
                    None => {
                        json!({ "type": "message", "id": salvaged.id.to_string(), "shard": shard.number })
                    }
                };
                let sources = salvaged.sources.iter().map(|path| path.to_string_lossy());
                value["complete"] = salvaged.complete.into();
                value["sources"] = sources.collect::<Vec<_>>().into();
                files.write_json(&value)?;
                sums.salvaged += 1;
                sums.octets += octets;
            }
            Err(error) => sums.take_fault(salvaged.id, error)?,
        }
    }
    Ok(())
}

impl Sums {
    fn take_fault(&mut self, id: MessageId, error: MessageError) -> Result<(), Failure> {
        match error {
            MessageError::Gone => self.gone += 1,
            MessageError::Damaged(_) | MessageError::Read(_) => self.damaged.push(format!("{id}: {error}")),
            MessageError::Write(_) => return Err(Failure::internal(format!("message {id}"), error)),
        }
        Ok(())
    }
}

/// The two files of a message.
struct Files {
    eml: PathBuf,
    json: PathBuf,
}

impl Files {
    fn of(dir: &Path, id: MessageId) -> Files {
        Files { eml: dir.join(format!("{id}.eml")), json: dir.join(format!("{id}.json")) }
    }

    /// Writes the message; what is not whole is removed again.
    fn write_eml(
        &self,
        write: impl FnOnce(&mut dyn Write) -> Result<u64, MessageError>,
    ) -> Result<Result<u64, MessageError>, Failure> {
        let mut out = BufWriter::with_capacity(1 << 16, create(&self.eml)?);
        let written = write(&mut out).and_then(|octets| {
            out.flush().map_err(MessageError::Write)?;
            Ok(octets)
        });
        if written.is_err() {
            drop(out);
            std::fs::remove_file(&self.eml).map_err(|error| cannot_write(&self.eml, &error))?;
        }
        Ok(written)
    }

    fn write_json(&self, value: &Value) -> Result<(), Failure> {
        let mut file = create(&self.json)?;
        file.write_all(json::line(value).as_bytes()).map_err(|error| cannot_write(&self.json, &error))
    }
}

fn create(path: &Path) -> Result<File, Failure> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600).open(path).map_err(|error| cannot_write(path, &error))
}

fn cannot_write(path: &Path, error: &io::Error) -> Failure {
    Failure::internal(format!("cannot write {}", path.display()), error)
}

fn print(sums: &Sums, options: &Export, out: &mut dyn Write) -> io::Result<()> {
    let Sums { exported, octets, salvaged, gone, damaged } = sums;
    if options.json {
        let value = json!({
            "exported": exported, "octets": octets, "salvaged": salvaged, "gone": gone, "damaged": damaged,
        });
        return out.write_all(json::line(&value).as_bytes());
    }
    for line in damaged {
        writeln!(out, "damaged: {}", Escaped(line))?;
    }
    let dir = options.out.to_string_lossy();
    write!(out, "{} and {octets} octets written to {}", count(*exported, "message"), Escaped(&dir))?;
    if options.quarantine {
        write!(out, ", {salvaged} more to its quarantine")?;
    }
    writeln!(out, "; {gone} finished meanwhile, {} damaged", damaged.len())
}
