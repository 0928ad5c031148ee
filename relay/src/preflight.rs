//! What a start would refuse, found without starting: for `chasqui relay --check`. Looks at the machine, changes nothing.

use std::io;
use std::net::TcpListener;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use chasqui_runtime::fs::{FilesystemKind, filesystem_kind_blocking, may_make_files};

use crate::Config;
use crate::config::Listener;
use crate::credentials::Credentials;
use crate::server::auth::read_users;
use crate::spool::OpenError;
use crate::tls;
use chasqui_protocol::durability::Durability;

/// Octets of a Unix socket's path (unix(7): 108 with the zero at its end).
const SOCKET_PATH_MAX: usize = 107;

/// One line for each thing that a start would refuse. What is in use is not among them: by the relay that runs, usually.
pub fn refusals(config: &Config) -> Vec<String> {
    let mut refusals = Vec::new();
    refusals.extend(spool(config));
    let credentials = config.auth.credentials.as_deref().map(Credentials::read).and_then(Result::err);
    refusals.extend(credentials.map(|error| error.to_string()));
    let users = config.auth.users.as_deref().map(read_users).and_then(Result::err);
    refusals.extend(users.map(|error| error.to_string()));
    let tls = [tls::of_listeners(config).err(), tls::of_next_hops(config).err()];
    refusals.extend(tls.into_iter().flatten().map(|error| error.to_string()));
    refusals.extend(config.control.socket.as_deref().and_then(control));
    for Listener { address, .. } in config.listeners() {
        if let Err(error) = TcpListener::bind(address)
            && error.kind() != io::ErrorKind::AddrInUse
        {
            refusals.push(format!("cannot listen on {address}: {error}; change `listen`"));
        }
    }
    refusals
}

fn spool(config: &Config) -> Option<String> {
    let directory = &config.spool.directory;
    let said = |what: String| Some(format!("spool.directory {}: {what}", directory.display()));
    let absolute = match std::path::absolute(directory) {
        Ok(absolute) => absolute,
        Err(error) => return said(error.to_string()),
    };
    // The start makes what is missing.
    let Some((there, metadata)) =
        absolute.ancestors().find_map(|path| std::fs::metadata(path).ok().map(|found| (path, found)))
    else {
        return said("no folder above it can be looked at".into());
    };
    if !metadata.is_dir() {
        return said(format!(
            "{} is in the way and no folder; move it or choose another directory",
            there.display()
        ));
    }
    if config.spool.class == Durability::Synced
        && matches!(filesystem_kind_blocking(there), Ok(FilesystemKind::Memory))
    {
        return Some(OpenError::Volatile(directory.clone()).to_string());
    }
    if !may_make_files(there).unwrap_or(true) {
        return said(format!("{} may not be written to; change its owner", there.display()));
    }
    let entries = if there == absolute { std::fs::read_dir(there).ok() } else { None };
    let is_shard =
        |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("shard-"));
    let wrong = entries?.flatten().map(|entry| entry.path()).find(|path| is_shard(path) && !path.is_dir())?;
    said(format!("{} is in the way and no folder; move it", wrong.display()))
}

fn control(path: &Path) -> Option<String> {
    let said = |what: &str| Some(format!("control.socket {}: {what}", path.display()));
    if path.as_os_str().len() > SOCKET_PATH_MAX {
        return said("longer than the 107 octets of a socket's path; choose a shorter one");
    }
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match std::fs::metadata(folder) {
        Err(error) => return said(&format!("its folder: {error}; make it")),
        Ok(metadata) if !metadata.is_dir() => return said("what should be its folder is none"),
        Ok(_) if !may_make_files(folder).unwrap_or(true) => return said("its folder may not be written to"),
        Ok(_) => {}
    }
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.file_type().is_socket() => {
            said("a file that is no socket is in the way; move it")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the start refuses is found: a disk that is none, files in the way, a missing folder, a foreign address.
    #[test]
    fn refusals_are_found() {
        let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        std::fs::create_dir(folder.path().join("old")).unwrap();
        std::fs::write(folder.path().join("old/shard-0"), "").unwrap();
        let refusals = |spool: &str, control: &str, more: &str| {
            let (spool, control) = (folder.path().join(spool), folder.path().join(control));
            let text = format!(
                "hostname = \"a.test\"\nlisten = [\"127.0.0.1:0\"]\nspool.directory = {spool:?}\n\
                 control.socket = {control:?}\n{more}"
            );
            refusals(&Config::parse(&text, Path::new("test.toml")).unwrap())
        };
        assert_eq!(refusals("spool/new", "control", ""), Vec::<String>::new());
        for (spool, control, more, said) in [
            ("/dev/shm/spool", "control", "", "tmpfs"),
            ("file", "control", "", "in the way"),
            ("file/spool", "control", "", "in the way"),
            ("old", "control", "", "shard-0 is in the way"),
            ("spool", "file", "", "no socket is in the way"),
            ("spool", "missing/control", "", "make it"),
            ("spool", "file/control", "", "its folder"),
            ("spool", &"x".repeat(100), "", "shorter"),
        ] {
            let lines = refusals(spool, control, more);
            assert!(lines.len() == 1 && lines[0].contains(said), "{said}: {lines:?}");
        }
        assert_eq!(refusals("/dev/shm/spool", "control", "spool.class = \"buffered\""), Vec::<String>::new());
        let text = "hostname = \"a.test\"\nlisten = [\"192.0.2.1:0\"]\nspool.directory = \"FOLDER/spool\"\n";
        let config =
            Config::parse(&text.replace("FOLDER", folder.path().to_str().unwrap()), Path::new("t")).unwrap();
        assert!(super::refusals(&config)[0].contains("192.0.2.1:0"));
    }
}
