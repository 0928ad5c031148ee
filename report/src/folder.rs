//! The folder a run leaves.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::latency::{Milestone, Recording};
use crate::render;
use crate::run::Run;

/// A folder that holds one run and nothing else.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
}

/// Why a run's folder cannot be written; one line for the user.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// There is something in it: a run never mixes with another's files.
    #[error("{0} is not empty: a run needs a folder of its own, name another with --out")]
    NotEmpty(PathBuf),
    /// The system refused.
    #[error("cannot write {path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

impl RunFolder {
    /// Creates the folder, parents included; an empty one is taken as it is, any other refused. Call it before the
    /// run starts, so that a run is not made in vain.
    pub fn create(path: impl AsRef<Path>) -> Result<RunFolder, FolderError> {
        let path = path.as_ref().to_owned();
        let failed = |source| FolderError::Io { path: path.clone(), source };
        fs::create_dir_all(&path).map_err(failed)?;
        if fs::read_dir(&path).map_err(failed)?.next().is_some() {
            return Err(FolderError::NotEmpty(path));
        }
        Ok(RunFolder { path })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes every file of a judged run: `latency.hlog`, a `.hgrm` per measured milestone, `summary.md`,
    /// `junit.xml`, `report.html`, and `run.json` last, so that a folder with a `run.json` is whole.
    pub fn write_all(&self, run: &Run, recording: &Recording) -> Result<(), FolderError> {
        self.write_with("latency.hlog", |out| recording.write_hlog(out, run.started))?;
        for milestone in Milestone::ALL.into_iter().filter(|milestone| recording.total(*milestone).is_some())
        {
            self.write_with(&format!("{}.hgrm", milestone.name()), |out| {
                recording.write_hgrm(milestone, out)
            })?;
        }
        self.write("summary.md", render::markdown(run).as_bytes())?;
        self.write("junit.xml", render::junit(run).as_bytes())?;
        self.write("report.html", render::html(run, recording).as_bytes())?;
        self.write("run.json", run.to_json().as_bytes())
    }

    /// Writes a further file of the run.
    pub fn write(&self, name: &str, content: &[u8]) -> Result<(), FolderError> {
        self.write_with(name, |out| out.write_all(content))
    }

    /// Under a temporary name first: a file that has its name has its whole content.
    fn write_with(
        &self,
        name: &str,
        content: impl FnOnce(&mut io::BufWriter<&fs::File>) -> io::Result<()>,
    ) -> Result<(), FolderError> {
        let path = self.path.join(name);
        let temporary = self.path.join(format!(".{name}.tmp"));
        let written = fs::File::create(&temporary).and_then(|file| {
            let mut out = io::BufWriter::new(&file);
            content(&mut out)?;
            out.flush()?;
            drop(out);
            fs::rename(&temporary, &path)
        });
        written.map_err(|source| {
            let _ = fs::remove_file(&temporary);
            FolderError::Io { path, source }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with anything in it is refused in one line and left as it was; a missing or empty one is taken.
    #[test]
    fn a_folder_in_use_is_refused() {
        let base = tempfile::tempdir().expect("a temporary folder");
        let path = base.path().join("runs/one");
        let folder = RunFolder::create(&path).expect("a missing folder is created");
        assert_eq!(RunFolder::create(&path).expect("an empty folder is taken").path(), path);
        folder.write("notes.txt", b"first").expect("the folder takes files");
        let error = RunFolder::create(&path).expect_err("it is in use").to_string();
        assert!(
            error.ends_with("is not empty: a run needs a folder of its own, name another with --out"),
            "{error}"
        );
        assert_eq!(fs::read(path.join("notes.txt")).expect("the file is there"), b"first");
    }

    /// A write that fails half-way leaves neither the file nor its temporary.
    #[test]
    fn a_failed_write_leaves_nothing() {
        let base = tempfile::tempdir().expect("a temporary folder");
        let folder = RunFolder::create(base.path()).expect("an empty folder is taken");
        let failing = |out: &mut io::BufWriter<&fs::File>| {
            out.write_all(b"half")?;
            Err(io::Error::other("no more"))
        };
        let error = folder.write_with("run.json", failing).expect_err("the content failed").to_string();
        assert!(error.ends_with("run.json: no more"), "{error}");
        assert_eq!(fs::read_dir(base.path()).expect("the folder is there").count(), 0);
    }
}
