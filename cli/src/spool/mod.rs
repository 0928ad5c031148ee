//! `chasqui spool`: what a spool holds, in words, in JSON, or as files.

mod export;
mod inspect;
mod json;
mod text;
mod verify;

use crate::arguments::{Selection, SpoolAction};
use crate::exit::Failure;
use chasqui_relay::spool::offline::{Message, ReadError, Shard, read};
use std::io;
use std::path::Path;
use std::process::ExitCode;

/// Runs one of the actions.
pub(crate) fn run(action: &SpoolAction) -> Result<ExitCode, Failure> {
    match action {
        SpoolAction::Inspect(options) => inspect::run(options),
        SpoolAction::Verify(options) => verify::run(options),
        SpoolAction::Export(options) => export::run(options),
    }
}

/// Something durable is damaged or missing.
const DAMAGED: u8 = 4;

fn open(dir: &Path) -> Result<Vec<Shard>, Failure> {
    read(dir).map_err(|error| match &error {
        ReadError::NoSpool(_) | ReadError::UnknownVersion { .. } => Failure::Usage(error.to_string()),
        ReadError::Io { error: cause, .. } if cause.kind() == io::ErrorKind::NotFound => {
            Failure::Usage(format!("{error}: name the directory that the relay has as spool.directory"))
        }
        ReadError::Io { .. } => Failure::Internal(error.to_string()),
    })
}

impl Selection {
    /// Whether the message is one of those asked for.
    fn takes(&self, message: &Message) -> bool {
        let envelope = &message.envelope;
        let sender = self.sender.as_deref().map(without_brackets);
        let recipient = self.recipient.as_deref().map(without_brackets);
        let has = |wanted: &dyn Fn(&str) -> bool| envelope.recipients.iter().any(|address| wanted(address));
        (self.ids.is_empty() || self.ids.contains(&message.id))
            && sender.is_none_or(|sender| envelope.reverse_path.eq_ignore_ascii_case(sender))
            && recipient.is_none_or(|wanted| has(&|address| address.eq_ignore_ascii_case(wanted)))
            && self.domain.as_ref().is_none_or(|wanted| {
                has(&|address| {
                    address.rsplit_once('@').is_some_and(|(_, it)| it.eq_ignore_ascii_case(wanted))
                })
            })
    }
}

fn without_brackets(path: &str) -> &str {
    path.strip_prefix('<').and_then(|path| path.strip_suffix('>')).unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use chasqui_protocol::smtp::data::BodyForm;
    use chasqui_relay::spool::Envelope;
    use chasqui_relay::spool::offline::RecipientState;

    fn message() -> Message {
        let envelope = Envelope {
            reverse_path: "Sender@example.org".into(),
            recipients: vec!["one@example.net".into(), "two@example.com".into()],
            arrived_ms: 0,
            lead_ms: 0,
            size: 0,
            eight_bit: false,
            form: BodyForm::default(),
            dsn: None,
        };
        let recipients = vec![RecipientState::Open, RecipientState::Delivered];
        Message { id: "00400000000000ff".parse().expect("an id"), envelope, recipients }
    }

    fn selection(id: &str, sender: &str, recipient: &str, domain: &str) -> Selection {
        let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let ids = given(id).iter().map(|id| id.parse().expect("an id")).collect();
        Selection { ids, sender: given(sender), recipient: given(recipient), domain: given(domain) }
    }

    #[test]
    fn every_condition_narrows() {
        // Proves: each condition takes what fits it and refuses what does not, whatever the case of letters.
        for (id, sender, recipient, domain, taken) in [
            ("", "", "", "", true),
            ("00400000000000FF", "<sender@example.org>", "Two@example.com", "EXAMPLE.net", true),
            ("00400000000000fe", "", "", "", false),
            ("", "<>", "", "", false),
            ("", "", "three@example.net", "", false),
            ("", "", "", "ample.net", false),
            ("", "sender@example.org", "", "example.org", false),
        ] {
            assert_eq!(
                selection(id, sender, recipient, domain).takes(&message()),
                taken,
                "{id} {sender} {domain}"
            );
        }
    }
}
