//! What stands on disk: encoding, decoding, and the walk that finds whole groups. No files are opened here. FORMAT.md beside
//! this folder draws it.

pub(crate) mod group;
pub(crate) mod headers;
pub(crate) mod id;
pub(crate) mod index;
pub(crate) mod message;
pub(crate) mod place;
mod reader;
pub(crate) mod scan;
pub(crate) mod state;
pub(crate) mod table;
