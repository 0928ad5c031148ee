//! What people and other programs read of a run: terminal, Markdown, JUnit, HTML.
//!
//! `digest` decides what is said and in which order; terminal and Markdown only set it.

mod charts;
mod digest;
mod html;
mod human;
mod junit;
mod markdown;
mod plot;
mod terminal;

pub use html::html;
pub use human::{bytes, count, duration_us, rate};
pub use junit::junit;
pub use markdown::markdown;
pub use terminal::terminal;
