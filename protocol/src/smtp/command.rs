//! Command lines (RFC 5321 section 4.1.1) to commands, or to the reply that a bad one deserves.

use memchr::{memchr, memchr2};

use super::address::{Mailbox, PATH_MAX, ReversePath, is_domain};
use super::dsn::{EnvelopeId, MailParameters, Notify, OriginalRecipient, RcptParameters, Return};
use super::extensions::{self, Extensions, MailParameter, RcptParameter};
use crate::foreign;

/// Octets of a HELO or EHLO name: those of a domain (RFC 5321 section 4.5.3.1.2); longer ones would not fit the trace field.
const NAME_MAX: usize = 255;

/// Octets of the AUTH parameter of MAIL (RFC 4954 section 3).
const AUTH_PARAMETER_MAX: usize = 500;

/// A command that can be carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command<'a> {
    /// `EHLO name`
    Ehlo(&'a str),
    /// `HELO name`
    Helo(&'a str),
    /// `MAIL FROM:<path> [SIZE=n] [BODY=…] [RET=…] [ENVID=…]`
    Mail(MailRequest<'a>),
    /// `RCPT TO:<path> [NOTIFY=…] [ORCPT=…]`
    Rcpt(ForwardPath<'a>, RcptParameters),
    /// `DATA`
    Data,
    /// `STARTTLS`
    StartTls,
    /// `AUTH mechanism [initial response]`
    Auth(&'a [u8], Option<&'a [u8]>),
    /// `XCLIENT attribute=value …`
    Xclient(&'a [u8]),
    /// `RSET`
    Rset,
    /// `NOOP [anything]`
    Noop,
    /// `VRFY anything`
    Vrfy,
    /// `HELP [anything]`
    Help,
    /// `QUIT`
    Quit,
}

/// What MAIL asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MailRequest<'a> {
    /// Whom to tell of failures.
    pub reverse_path: ReversePath<'a>,
    /// The message's size as announced (RFC 1870), in octets.
    pub size: Option<u64>,
    /// What the body will hold (RFC 6152).
    pub body: Body,
    /// What it says of notifications (RFC 3461).
    pub dsn: MailParameters,
}

/// The BODY parameter of MAIL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Body {
    /// `7BIT`, or no parameter.
    #[default]
    SevenBit,
    /// `8BITMIME`
    EightBitMime,
}

/// Where RCPT wants the message to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ForwardPath<'a> {
    /// A mailbox.
    Mailbox(Mailbox<'a>),
    /// `<Postmaster>`, ours, without a domain (RFC 5321 section 4.5.1).
    Postmaster,
}

/// Why a line is no command. Each has its reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// No such verb.
    #[error("500 5.5.1 Command not recognized")]
    Unknown,
    /// HTTP's method: the session is to be ended.
    #[error("421 4.7.0 This is SMTP")]
    Foreign,
    /// A verb of SMTP that this server does not implement.
    #[error("502 5.5.1 Command not implemented")]
    NotImplemented,
    /// The line exceeds the limit.
    #[error("500 5.5.2 Line too long")]
    TooLong,
    /// A line feed without a carriage return, or a carriage return within the line.
    #[error("500 5.5.2 Bare CR or LF in a command")]
    BareNewline,
    /// NUL, which no command has.
    #[error("500 5.5.2 NUL in a command")]
    Nul,
    /// The arguments do not fit the verb.
    #[error("501 5.5.4 Syntax error in parameters or arguments")]
    Arguments,
    /// A parameter that was not advertised.
    #[error("555 5.5.4 Unsupported parameter")]
    Parameter,
    /// The reverse-path is no address.
    #[error("501 5.1.7 Bad sender address syntax")]
    ReversePath,
    /// The forward-path is no address.
    #[error("501 5.1.3 Bad recipient address syntax")]
    ForwardPath,
    /// The command does not fit the session's state.
    #[error("503 5.5.1 Bad sequence of commands")]
    Sequence,
}

impl CommandError {
    /// Whether the line is nothing that a mail client says.
    pub(super) fn is_no_command(self) -> bool {
        matches!(
            self,
            CommandError::Unknown | CommandError::BareNewline | CommandError::TooLong | CommandError::Nul
        )
    }
}

/// Parses a line without its CRLF. A parameter of an extension that was not advertised gets 555 whatever its value
/// (RFC 5321 section 4.1.1.11), a known one with a bad value 501.
pub fn parse(line: &[u8], extensions: Extensions) -> Result<Command<'_>, CommandError> {
    match memchr2(b'\r', 0, line).map(|at| line[at]) {
        Some(0) => return Err(CommandError::Nul),
        Some(_) => return Err(CommandError::BareNewline),
        None => {}
    }
    let verb_end = memchr(b' ', line).unwrap_or(line.len());
    let (verb, rest) = line.split_at(verb_end);
    let rest = rest.trim_ascii();
    let mut upper = [0; 8];
    let Some(upper) = upper.get_mut(..verb.len()) else { return Err(CommandError::Unknown) };
    upper.copy_from_slice(verb);
    upper.make_ascii_uppercase();
    match &*upper {
        b"MAIL" => mail(rest, extensions).map(Command::Mail),
        b"RCPT" => rcpt(rest, extensions).map(|(path, dsn)| Command::Rcpt(path, dsn)),
        b"DATA" => bare(rest, Command::Data),
        b"EHLO" => name(rest).map(Command::Ehlo),
        b"HELO" => name(rest).map(Command::Helo),
        // Whether it can be carried out is the session's matter.
        b"STARTTLS" => bare(rest, Command::StartTls),
        b"AUTH" => auth(rest),
        b"XCLIENT" => Ok(Command::Xclient(rest)),
        b"RSET" => bare(rest, Command::Rset),
        b"QUIT" => bare(rest, Command::Quit),
        b"NOOP" => Ok(Command::Noop),
        b"HELP" => Ok(Command::Help),
        b"VRFY" if rest.is_empty() => Err(CommandError::Arguments),
        b"VRFY" => Ok(Command::Vrfy),
        b"EXPN" | b"TURN" | b"SEND" | b"SOML" | b"SAML" => Err(CommandError::NotImplemented),
        verb if extensions::is_verb(verb) => Err(CommandError::NotImplemented),
        verb if foreign::is_method(verb) => Err(CommandError::Foreign),
        _ => Err(CommandError::Unknown),
    }
}

fn auth(rest: &[u8]) -> Result<Command<'_>, CommandError> {
    let mut words = rest.split(|&byte| byte == b' ').filter(|word| !word.is_empty());
    match (words.next(), words.next(), words.next()) {
        (Some(mechanism), initial, None) => Ok(Command::Auth(mechanism, initial)),
        _ => Err(CommandError::Arguments),
    }
}

fn bare<'a>(rest: &[u8], command: Command<'a>) -> Result<Command<'a>, CommandError> {
    if rest.is_empty() { Ok(command) } else { Err(CommandError::Arguments) }
}

/// A client's name. Clients call themselves all sorts of things; it must only be fit for a trace field.
fn name(rest: &[u8]) -> Result<&str, CommandError> {
    let fits = !rest.is_empty() && rest.len() <= NAME_MAX;
    // Parentheses, semicolons and angle brackets would change how a Received field reads.
    let printable = |byte: &u8| byte.is_ascii_graphic() && !b"()<>;\\\"".contains(byte);
    if !fits || !rest.iter().all(printable) {
        return Err(CommandError::Arguments);
    }
    str::from_utf8(rest).map_err(|_| CommandError::Arguments)
}

fn mail(rest: &[u8], extensions: Extensions) -> Result<MailRequest<'_>, CommandError> {
    let path = after_keyword(rest, b"FROM:").ok_or(CommandError::Arguments)?;
    let Path { route, address, parameters } = split_path(path).ok_or(CommandError::ReversePath)?;
    let reverse_path = match address {
        b"" if route.is_empty() => ReversePath(None),
        _ => ReversePath(Some(Mailbox::parse(address).map_err(|_| CommandError::ReversePath)?)),
    };
    let (mut size, mut body, mut dsn) = (None, None, MailParameters::default());
    let mut auth = None;
    for (keyword, value) in parameters_of(parameters) {
        match extensions.mail_parameter(keyword).ok_or(CommandError::Parameter)? {
            MailParameter::Size => set_once(&mut size, value.and_then(octets))?,
            MailParameter::Body => set_once(&mut body, value.and_then(body_kind))?,
            // RFC 4954 section 5: who had it from others; a server need not pass it on.
            MailParameter::Auth => set_once(&mut auth, value.filter(|it| it.len() <= AUTH_PARAMETER_MAX))?,
            MailParameter::Ret => set_once(&mut dsn.ret, value.and_then(Return::parse))?,
            MailParameter::EnvelopeId => {
                set_once(&mut dsn.envelope_id, value.and_then(EnvelopeId::parse))?;
            }
        }
    }
    Ok(MailRequest { reverse_path, size, body: body.unwrap_or_default(), dsn })
}

fn rcpt(rest: &[u8], extensions: Extensions) -> Result<(ForwardPath<'_>, RcptParameters), CommandError> {
    let path = after_keyword(rest, b"TO:").ok_or(CommandError::Arguments)?;
    let Path { route, address, parameters } = split_path(path).ok_or(CommandError::ForwardPath)?;
    let path = if route.is_empty() && address.eq_ignore_ascii_case(b"postmaster") {
        ForwardPath::Postmaster
    } else {
        ForwardPath::Mailbox(Mailbox::parse(address).map_err(|_| CommandError::ForwardPath)?)
    };
    let mut dsn = RcptParameters::default();
    for (keyword, value) in parameters_of(parameters) {
        match extensions.rcpt_parameter(keyword).ok_or(CommandError::Parameter)? {
            RcptParameter::Notify => set_once(&mut dsn.notify, value.and_then(Notify::parse))?,
            RcptParameter::OriginalRecipient => {
                set_once(&mut dsn.original, value.and_then(OriginalRecipient::parse))?;
            }
        }
    }
    Ok((path, dsn))
}

/// What follows `FROM:` or `TO:`; blanks between it and the path are common, if wrong.
fn after_keyword<'a>(rest: &'a [u8], keyword: &[u8]) -> Option<&'a [u8]> {
    let (start, after) = rest.split_at_checked(keyword.len())?;
    start.eq_ignore_ascii_case(keyword).then(|| after.trim_ascii_start())
}

/// A path and what follows it.
struct Path<'a> {
    /// With its `:`, or empty.
    route: &'a [u8],
    address: &'a [u8],
    parameters: &'a [u8],
}

/// Splits `<[source route:]address> parameters`. A source route must be one, and is of no use otherwise (RFC 5321 section
/// 4.1.1.3).
fn split_path(path: &[u8]) -> Option<Path<'_>> {
    let inner = path.strip_prefix(b"<")?;
    let (route, inner) = inner.split_at(source_route_end(inner)?);
    let end = if inner.first() == Some(&b'"') { closing_bracket(inner)? } else { memchr(b'>', inner)? };
    let (address, parameters) = (&inner[..end], &inner[end + 1..]);
    let fits = route.len() + address.len() + 2 <= PATH_MAX;
    (fits && (parameters.is_empty() || parameters[0] == b' ')).then_some(Path { route, address, parameters })
}

/// Octets of the source route that a path begins with, `@domain,@domain:`; 0 without one.
fn source_route_end(path: &[u8]) -> Option<usize> {
    if path.first() != Some(&b'@') {
        return Some(0);
    }
    let end = memchr(b':', path)?;
    let mut domains = path[..end].split(|&byte| byte == b',');
    domains.all(|domain| domain.strip_prefix(b"@").is_some_and(is_domain)).then_some(end + 1)
}

/// The first `>` outside of quotes.
fn closing_bracket(path: &[u8]) -> Option<usize> {
    let mut quoted = false;
    let mut escaped = false;
    path.iter().position(|&byte| {
        let end = byte == b'>' && !quoted;
        if !escaped && byte == b'"' {
            quoted = !quoted;
        }
        escaped = quoted && !escaped && byte == b'\\';
        end
    })
}

/// Keywords with their values.
fn parameters_of(parameters: &[u8]) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
    let words = parameters.split(|&byte| byte == b' ').filter(|word| !word.is_empty());
    words.map(|word| match memchr(b'=', word) {
        Some(equals) => (&word[..equals], Some(&word[equals + 1..])),
        None => (word, None),
    })
}

/// A value that must be valid and given only once.
fn set_once<T>(slot: &mut Option<T>, value: Option<T>) -> Result<(), CommandError> {
    if slot.is_some() || value.is_none() {
        return Err(CommandError::Arguments);
    }
    *slot = value;
    Ok(())
}

/// Up to 20 digits (RFC 1870 section 4); more than fits 64 bits is as good as the largest number.
fn octets(value: &[u8]) -> Option<u64> {
    let valid = (1..=20).contains(&value.len()) && value.iter().all(u8::is_ascii_digit);
    let add = |sum: u64, digit: &u8| sum.saturating_mul(10).saturating_add(u64::from(digit - b'0'));
    valid.then(|| value.iter().fold(0, add))
}

fn body_kind(value: &[u8]) -> Option<Body> {
    if value.eq_ignore_ascii_case(b"8BITMIME") {
        Some(Body::EightBitMime)
    } else if value.eq_ignore_ascii_case(b"7BIT") {
        Some(Body::SevenBit)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    //! Each line gets its command, or the reply of RFC 5321.
    use super::*;
    use crate::sasl::mechanism::Mechanisms;
    use crate::smtp::extensions::Offering;

    fn parse(line: &[u8]) -> Result<Command<'_>, CommandError> {
        super::parse(
            line,
            Extensions::offered(Offering {
                size: 1000,
                dsn: true,
                starttls: true,
                mechanisms: Mechanisms::NONE,
                xclient: false,
            }),
        )
    }

    fn mail_of(line: &str) -> MailRequest<'_> {
        match parse(line.as_bytes()) {
            Ok(Command::Mail(mail)) => mail,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn good_commands() {
        assert_eq!(parse(b"EHLO client.example"), Ok(Command::Ehlo("client.example")));
        assert_eq!(parse(b"helo [192.0.2.1] "), Ok(Command::Helo("[192.0.2.1]")));
        assert_eq!(parse(b"data "), Ok(Command::Data));
        assert_eq!(parse(b"NOOP \xff"), Ok(Command::Noop));
        assert_eq!(parse(b"VRFY someone"), Ok(Command::Vrfy));
        assert_eq!(parse(b"HELP"), Ok(Command::Help));
        assert_eq!(parse(b"rset"), Ok(Command::Rset));
        assert_eq!(parse(b"QUIT"), Ok(Command::Quit));
        assert_eq!(
            parse(b"RCPT TO:<Postmaster>"),
            Ok(Command::Rcpt(ForwardPath::Postmaster, RcptParameters::default()))
        );
        assert_eq!(
            parse(b"RCPT TO: <@a,@b:u@d>"),
            Ok(Command::Rcpt(ForwardPath::Mailbox("u@d".parse().unwrap()), RcptParameters::default()))
        );
    }

    #[test]
    fn mail_with_parameters() {
        let mail = mail_of("mail from:<a@b> SIZE=1000 body=8bitmime");
        assert_eq!(
            (mail.reverse_path.as_str(), mail.size, mail.body),
            ("a@b", Some(1000), Body::EightBitMime)
        );
        assert!(mail_of("MAIL FROM:<>").reverse_path.is_null());
        assert_eq!(mail_of("MAIL FROM:<> SIZE=99999999999999999999").size, Some(u64::MAX));
        assert_eq!(mail_of("MAIL FROM:<\"a> b\\\"\"@c>  BODY=7BIT").reverse_path.as_str(), "\"a> b\\\"\"@c");
    }

    #[test]
    fn parameters_of_notifications() {
        let mail = mail_of("MAIL FROM:<> ret=hdrs SIZE=1 EnvId=a+2Bb");
        assert_eq!((mail.dsn.ret, mail.size), (Some(Return::Headers), Some(1)));
        assert_eq!(mail.dsn.envelope_id.unwrap().decoded(), "a+b");
        match parse(b"RCPT TO:<Postmaster> orcpt=rfc822;x@y notify=Delay,success") {
            Ok(Command::Rcpt(ForwardPath::Postmaster, dsn)) => {
                assert_eq!(dsn.original.unwrap().decoded(), "x@y");
                assert_eq!(dsn.notify, Notify::parse(b"SUCCESS,DELAY"));
            }
            other => panic!("{other:?}"),
        }
        assert!(mail_of("MAIL FROM:<a@b>").dsn.is_empty());
    }

    /// Lines that are no commands, and why.
    const BAD_LINES: &[(&str, CommandError)] = &[
        ("", CommandError::Unknown),
        (" QUIT", CommandError::Unknown),
        ("FOO", CommandError::Unknown),
        ("QUITQUITQUIT", CommandError::Unknown),
        ("MAILFROM:<a@b>", CommandError::Unknown),
        ("get /", CommandError::Foreign),
        ("CONNECT a:25", CommandError::Foreign),
        ("STARTTLS now", CommandError::Arguments),
        ("EXPN x", CommandError::NotImplemented),
        ("BDAT 5 LAST", CommandError::NotImplemented),
        ("NOOP a\rb", CommandError::BareNewline),
        ("NOOP \0", CommandError::Nul),
        ("MAIL FROM:<a\0@b>", CommandError::Nul),
        ("EHLO", CommandError::Arguments),
        ("EHLO a b", CommandError::Arguments),
        ("EHLO a(b)", CommandError::Arguments),
        ("HELO \u{e9}", CommandError::Arguments),
        ("DATA now", CommandError::Arguments),
        ("VRFY", CommandError::Arguments),
        ("MAIL", CommandError::Arguments),
        ("MAIL TO:<a@b>", CommandError::Arguments),
        ("MAIL FROM:a@b", CommandError::ReversePath),
        ("MAIL FROM:<a@b", CommandError::ReversePath),
        ("MAIL FROM:<a@b>SIZE=1", CommandError::ReversePath),
        ("MAIL FROM:<a>", CommandError::ReversePath),
        ("MAIL FROM:<\"a>", CommandError::ReversePath),
        ("MAIL FROM:<@a>", CommandError::ReversePath),
        ("MAIL FROM:<@a:>", CommandError::ReversePath),
        ("MAIL FROM:<@> SIZE=1:a@b>", CommandError::ReversePath),
        ("MAIL FROM:<@ any thing : a@b>", CommandError::ReversePath),
        ("MAIL FROM:<@junk\x01:a@b>", CommandError::ReversePath),
        ("MAIL FROM:<@a,b:a@b>", CommandError::ReversePath),
        ("MAIL FROM:<@a,:a@b>", CommandError::ReversePath),
        ("MAIL FROM:<@a:@b:a@b>", CommandError::ReversePath),
        ("RCPT TO:<@y> NOTIFY=NEVER q:a@b>", CommandError::ForwardPath),
        ("RCPT TO:<@a:Postmaster>", CommandError::ForwardPath),
        ("RCPT TO:<@[192.0.2.1]:a@b>", CommandError::ForwardPath),
        ("MAIL FROM:<a@b> SIZE", CommandError::Arguments),
        ("MAIL FROM:<a@b> SIZE=", CommandError::Arguments),
        ("MAIL FROM:<a@b> SIZE=-1", CommandError::Arguments),
        ("MAIL FROM:<a@b> SIZE=1 SIZE=1", CommandError::Arguments),
        ("MAIL FROM:<a@b> BODY=BINARYMIME", CommandError::Arguments),
        ("MAIL FROM:<a@b> AUTH=<>", CommandError::Parameter),
        ("RCPT TO:<>", CommandError::ForwardPath),
        ("RCPT TO:<a\u{e9}@b>", CommandError::ForwardPath),
        ("MAIL FROM:<a@b> RET=ALL", CommandError::Arguments),
        ("MAIL FROM:<a@b> RET", CommandError::Arguments),
        ("MAIL FROM:<a@b> RET=FULL RET=FULL", CommandError::Arguments),
        ("MAIL FROM:<a@b> ENVID=", CommandError::Arguments),
        ("MAIL FROM:<a@b> ENVID=+0A", CommandError::Arguments),
        ("MAIL FROM:<a@b> ENVID=a ENVID=a", CommandError::Arguments),
        ("MAIL FROM:<a@b> NOTIFY=NEVER", CommandError::Parameter),
        ("RCPT TO:<a@b> NOTIFY=NEVER,DELAY", CommandError::Arguments),
        ("RCPT TO:<a@b> NOTIFY", CommandError::Arguments),
        ("RCPT TO:<a@b> NOTIFY=NEVER NOTIFY=NEVER", CommandError::Arguments),
        ("RCPT TO:<a@b> ORCPT=a@b", CommandError::Arguments),
        ("RCPT TO:<a@b> ORCPT=rfc822;a@b ORCPT=rfc822;a@b", CommandError::Arguments),
        ("RCPT TO:<a@b> RET=FULL", CommandError::Parameter),
        ("RCPT FROM:<a@b>", CommandError::Arguments),
    ];

    #[test]
    fn bad_lines() {
        use CommandError::*;
        for (line, error) in BAD_LINES {
            assert_eq!(parse(line.as_bytes()), Err(*error), "{line}");
        }
        let long = format!("RCPT TO:<@{}:a@b>", "c".repeat(62) + &".d".repeat(94));
        assert_eq!(parse(long.as_bytes()), Err(ForwardPath), "257 octets");
        assert!(parse(long.replacen('c', "", 1).as_bytes()).is_ok());
        let name = format!("EHLO {}", "a".repeat(256));
        assert_eq!(parse(name.as_bytes()), Err(Arguments));
    }
}
