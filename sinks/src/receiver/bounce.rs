//! Which recipients a delivery status notification gives up (RFC 3464).

use mail_parser::{MessageParser, MimeHeaders, PartType};

/// How much of a bounce is looked at: its status part comes before the message that it returns.
pub(super) const LOOKED_AT_MAX: usize = 64 * 1024;

/// The Final-Recipient of every recipient whose Action is `failed`; none for a notification of delay or
/// success. `None` when there is no delivery status to read.
pub(super) fn failed_recipients(message: &[u8]) -> Option<Vec<String>> {
    let message = MessageParser::default().parse(&message[..message.len().min(LOOKED_AT_MAX)])?;
    let status = message.parts.iter().find(|part| {
        part.content_type().is_some_and(|kind| {
            let subtype = kind.subtype().unwrap_or_default();
            kind.ctype().eq_ignore_ascii_case("message")
                && (subtype.eq_ignore_ascii_case("delivery-status")
                    || subtype.eq_ignore_ascii_case("global-delivery-status"))
        })
    })?;
    let text = match &status.body {
        PartType::Text(text) | PartType::Html(text) => text.as_bytes(),
        PartType::Binary(bytes) | PartType::InlineBinary(bytes) => bytes,
        PartType::Message(inner) => inner.raw_message(),
        PartType::Multipart(_) => return None,
    };
    let mut recipients = Vec::new();
    let mut told_of_any = false;
    for group in groups(text) {
        if let Some(recipient) = group.final_recipient {
            told_of_any = true;
            if group.failed {
                recipients.push(recipient);
            }
        }
    }
    told_of_any.then_some(recipients)
}

/// What one group of fields, between empty lines, says.
#[derive(Default)]
struct Group {
    final_recipient: Option<String>,
    failed: bool,
}

/// The groups of a delivery status, with folded fields made one line.
fn groups(text: &[u8]) -> Vec<Group> {
    let mut groups = vec![Group::default()];
    let mut field: Vec<u8> = Vec::new();
    for line in text.split(|&byte| byte == b'\n').chain([&b""[..]]) {
        let is_folded = matches!(line.first(), Some(b' ' | b'\t'));
        let line = line.trim_ascii_end();
        if !is_folded {
            if let Some(group) = groups.last_mut() {
                group.read(&field);
            }
            field.clear();
            if line.is_empty() {
                groups.push(Group::default());
            }
        }
        field.extend_from_slice(line);
    }
    groups
}

impl Group {
    fn read(&mut self, field: &[u8]) {
        let Ok(field) = str::from_utf8(field) else { return };
        let Some((name, value)) = field.split_once(':') else { return };
        let (name, value) = (name.trim_end(), value.trim());
        if name.eq_ignore_ascii_case("action") {
            self.failed = value.eq_ignore_ascii_case("failed");
        } else if name.eq_ignore_ascii_case("final-recipient")
            && let Some((_type, address)) = value.split_once(';')
        {
            let address = address.trim();
            let bare = address.strip_prefix('<').and_then(|address| address.strip_suffix('>'));
            self.final_recipient = Some(bare.unwrap_or(address).to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dsn(status: &str) -> Vec<u8> {
        format!(
            "From: MAILER-DAEMON@relay.test\r\nTo: <x@bounce.test>\r\nSubject: Undelivered\r\n\
             MIME-Version: 1.0\r\nContent-Type: multipart/report; report-type=delivery-status;\r\n\
             \tboundary=\"=_b/1\"\r\n\r\nThis is MIME.\r\n--=_b/1\r\nContent-Type: text/plain\r\n\r\n\
             Final-Recipient: rfc822; not@this.one\r\nAction: failed\r\n\r\n\
             --=_b/1\r\nContent-Type: message/delivery-status\r\n\r\n{status}\r\n\
             --=_b/1\r\nContent-Type: message/rfc822\r\n\r\nSubject: x\r\n\r\n\
             Final-Recipient: rfc822; nor@this.one\r\nAction: failed\r\n--=_b/1--\r\n"
        )
        .into_bytes()
    }

    /// Proves that failed recipients are told from delayed and delivered ones, whatever case and folding.
    #[test]
    fn failed_recipients_are_found() {
        let message = dsn("Reporting-MTA: dns; relay.test\r\nArrival-Date: now\r\n\r\n\
             Final-Recipient: rfc822; u1@d1.test\r\nAction: failed\r\nStatus: 5.1.1\r\n\r\n\
             FINAL-RECIPIENT : RFC822;\r\n <U2@d1.test>\r\nDiagnostic-Code: smtp; 550 5.1.1\r\n no such user\r\n\
             action: Failed\r\n\r\n\
             Final-Recipient: rfc822; u3@d1.test\r\nAction: delayed\r\n\r\n\
             Final-Recipient: rfc822; u4@d1.test\r\nAction: delivered\r\n");
        assert_eq!(failed_recipients(&message).unwrap(), ["u1@d1.test", "U2@d1.test"]);
    }

    /// Proves that a warning of delay fails nobody, and is not taken for something unreadable.
    #[test]
    fn delay_fails_nobody() {
        let message = dsn("Reporting-MTA: dns; a\r\n\r\nFinal-Recipient: rfc822; u@d\r\nAction: delayed\r\n");
        assert_eq!(failed_recipients(&message), Some(Vec::new()));
    }

    /// Proves that what is no delivery status is told apart, also when it is cut off or empty.
    #[test]
    fn other_mail_is_unreadable() {
        assert_eq!(failed_recipients(b""), None);
        assert_eq!(failed_recipients(b"Subject: I am away\r\n\r\nFinal-Recipient: rfc822; a@b\r\n"), None);
        assert_eq!(failed_recipients(&dsn("Reporting-MTA: dns; a\r\n")), None);
        let whole = dsn("Reporting-MTA: dns; a\r\n\r\nFinal-Recipient: rfc822; u@d\r\nAction: failed\r\n");
        for end in 0..whole.len() {
            // Whatever the cut leaves, reading it ends.
            let _ = failed_recipients(&whole[..end]);
        }
    }

    /// Proves that only the stated part of a large bounce is looked at, and that it suffices.
    #[test]
    fn large_bounces_are_read_from_their_start() {
        let mut message =
            dsn("Reporting-MTA: dns; a\r\n\r\nFinal-Recipient: rfc822; u@d\r\nAction: failed\r\n");
        message.extend(std::iter::repeat_n(b'x', 4 * LOOKED_AT_MAX));
        assert_eq!(failed_recipients(&message).unwrap(), ["u@d"]);
    }
}
