//! The task that writes out what has been in memory alone for long enough.

use std::rc::Rc;

use chasqui_runtime::{now, timeout_at};

use crate::spool::log::handle::Log;
use crate::spool::log::inner::Condition;
use crate::spool::log::write_out::write_out;

/// Writes out what has been in memory for long enough, until the log is closed or has failed.
pub(crate) async fn run(log: Rc<Log>) {
    loop {
        let next = {
            let inner = &mut *log.inner();
            if !matches!(inner.condition, Condition::Running) {
                return;
            }
            loop {
                match inner.write_back.oldest() {
                    Some((since, id)) if since + log.write_back.time <= now() => write_out(inner, id, &log),
                    Some((since, _)) => break Some(since + log.write_back.time),
                    None => break None,
                }
            }
        };
        match next {
            // Either the time has come or the log ends: look again.
            Some(at) => drop(timeout_at(at, log.write_back_due.notified()).await),
            None => log.write_back_due.notified().await,
        }
    }
}
