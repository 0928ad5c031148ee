//! A spool is its owner's alone: what is made in it is so from its making, and what an earlier version left open to others
//! is narrowed at the start.

use std::path::Path;

use chasqui_runtime::{fs, sim};

use crate::spool::config::SpoolConfig;
use crate::spool::error::OpenError;

/// Makes the directory of a shard, or takes the rights of others away from one that is there and from what is in it. The
/// spool's own directory is narrowed with it if it is a spool and nothing else: it may be one that others use, too.
pub(crate) async fn open(config: &SpoolConfig, dir: &Path) -> Result<(), OpenError> {
    // Simulated files have no modes.
    let found = if sim::is_running() { None } else { fs::read_dir(dir).await.ok() };
    fs::create_dir_all(dir).await.map_err(OpenError::io("create", dir))?;
    let Some(found) = found else { return Ok(()) };
    narrow(dir).await;
    let mut narrowed = 0;
    let beside = BESIDE.map(|name| config.dir.join(name));
    for path in found.iter().chain(&beside) {
        narrowed += usize::from(matches!(fs::make_private(path).await, Ok(Some(_))));
    }
    if narrowed > 0 {
        log::warn!(
            "spool {}: group or others had rights to {narrowed} files; they have none now",
            dir.display()
        );
    }
    if fs::read_dir(&config.dir).await.is_ok_and(|entries| entries.iter().all(|path| is_of_a_spool(path))) {
        narrow(&config.dir).await;
    }
    Ok(())
}

/// Files in the spool's directory, beside those of its shards.
const BESIDE: [&str; 5] = ["auth-secret", "auth-secret.new", "clock", "suspended", "suspended.new"];

fn is_of_a_spool(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.starts_with("shard-") || BESIDE.contains(&name)
}

async fn narrow(dir: &Path) {
    match fs::make_private(dir).await {
        Ok(None) => {}
        Ok(Some(mode)) => {
            log::warn!(
                "spool {}: its mode was {mode:o}, which lets others in; it is {:o} now",
                dir.display(),
                mode & 0o700
            );
        }
        Err(error) => log::warn!("spool {}: others may be let in by its mode: {error}", dir.display()),
    }
}
