//! What the commands of an IMAP session mean.

mod login;

use std::borrow::Cow;
use std::io::{self, Write as _};
use std::rc::Rc;
use std::sync::Arc;

use chasqui_protocol::imap::flags::Flags;
use chasqui_protocol::imap::set;
use chasqui_protocol::imap::types::command::{Command, CommandBody};
use chasqui_protocol::imap::types::core::Charset;
use chasqui_protocol::imap::types::fetch::MacroOrMessageDataItemNames;
use chasqui_protocol::imap::types::flag::StoreResponse;
use chasqui_protocol::imap::types::mailbox::Mailbox as MailboxName;
use chasqui_protocol::imap::types::search::SearchKey;
use chasqui_protocol::imap::types::sequence::SequenceSet;
use chasqui_protocol::imap::types::status::StatusDataItemName;

use super::Options;
use super::fetch::Items;
use super::list::list;
use super::search::{Answer, Refused, Search};
use super::store::{Change, Stored, store};
use super::view::{News, View};
use crate::mailbox::{Mailbox, Message, Outgoing, Store, Watch};
use crate::turns::let_others_run;
use chasqui_transport::Stream;
use login::Authenticating;
pub(super) use login::Offer;

/// Everything advertised works. Commands of the base protocol that a store with one mailbox per user has no use for
/// (CREATE, COPY, APPEND …) answer NO.
const CAPABILITIES: &str = "IMAP4rev1 IDLE UNSELECT UIDPLUS";
/// Commands without a login before the connection is closed.
const MAX_COMMANDS_BEFORE_LOGIN: u32 = 100;
/// Pieces of news that are told at a time. More only come while others go on with their changes.
const NEWS_ROUNDS_MAX: usize = 1000;
/// Messages looked up under one lock.
const FETCH_BATCH: usize = 64;

/// What the connection does after a command.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    Command,
    Idle,
    /// IDLE was refused: no DONE will come.
    NoIdle,
    /// AUTHENTICATE goes on with this challenge.
    Challenge(Vec<u8>),
    /// TLS, unless more input is there already.
    StartTls,
    Close,
    /// Close on a client that may go on sending.
    HangUp,
}

/// One session.
pub(super) struct Session {
    store: Arc<Store>,
    options: Rc<Options>,
    offer: Offer,
    /// AUTHENTICATE, while it is under way.
    authenticating: Option<Box<Authenticating>>,
    login_failures: u32,
    /// Commands without a login.
    anonymous: u32,
    /// Of the user who is logged in.
    mailbox: Option<Arc<Mailbox>>,
    /// When it is selected.
    view: Option<View>,
    /// To the last search in it.
    answer: Option<Answer>,
}

/// How a command ends: the tagged response.
struct End {
    status: &'static str,
    text: Cow<'static, str>,
}

impl End {
    fn ok(text: &'static str) -> End {
        End { status: "OK", text: text.into() }
    }

    fn no(text: &'static str) -> End {
        End { status: "NO", text: text.into() }
    }

    fn bad(text: &'static str) -> End {
        End { status: "BAD", text: text.into() }
    }
}

impl Session {
    pub(super) fn new(store: Arc<Store>, options: Rc<Options>, offer: Offer) -> Session {
        Session {
            store,
            options,
            offer,
            authenticating: None,
            login_failures: 0,
            anonymous: 0,
            mailbox: None,
            view: None,
            answer: None,
        }
    }

    pub(super) fn is_logged_in(&self) -> bool {
        self.mailbox.is_some()
    }

    pub(super) fn greet(&self, output: &mut Vec<u8>) {
        let (capabilities, hostname) = (self.capabilities(), &self.options.hostname);
        let _ = write!(output, "* OK [CAPABILITY {capabilities}] {hostname} IMAP ready\r\n");
    }

    /// A watch on the selected mailbox.
    pub(super) fn watch(&self) -> Option<Watch> {
        self.view.as_ref().and(self.mailbox.as_ref()).map(Mailbox::watch)
    }

    /// Sends untagged responses for what has changed in the selected mailbox.
    pub(super) async fn tell_news(&mut self, with_removals: bool, out: &mut Outgoing) -> io::Result<()> {
        if let (Some(mailbox), Some(view)) = (&self.mailbox, &mut self.view) {
            for _ in 0..NEWS_ROUNDS_MAX {
                let news = view.refresh(&mut mailbox.lock(), with_removals);
                news.write(out).await?;
                if !news.more {
                    break;
                }
                let_others_run().await;
            }
        }
        Ok(())
    }

    pub(super) fn end_idle(&mut self, tag: &str, done: bool, output: &mut Vec<u8>) {
        let (status, text) = if done { ("OK", "no longer idle") } else { ("BAD", "DONE was expected") };
        let _ = write!(output, "{tag} {status} {text}\r\n");
    }

    pub(super) async fn handle(
        &mut self,
        command: Command<'static>,
        stream: &Stream,
        out: &mut Outgoing,
    ) -> io::Result<Next> {
        let Command { tag, body } = command;
        let tag = tag.as_ref();
        let output = out.text();
        self.anonymous += u32::from(self.mailbox.is_none());
        if self.anonymous > MAX_COMMANDS_BEFORE_LOGIN {
            output.extend_from_slice(b"* BYE too many commands without a login\r\n");
            return Ok(Next::HangUp);
        }
        if body == CommandBody::Idle {
            return Ok(self.begin_idle(tag, output));
        }
        if body == CommandBody::StartTLS {
            return Ok(self.begin_tls(tag, output));
        }
        if let CommandBody::Authenticate { mechanism, initial_response } = body {
            let initial = initial_response.as_ref().map(|response| response.declassify().as_ref());
            return self.authenticate((tag, mechanism.as_ref()), initial, stream, out).await;
        }
        if body == CommandBody::Logout {
            let _ = write!(output, "* BYE bye\r\n{tag} OK logged out\r\n");
            return Ok(Next::Close);
        }
        // Sequence numbers must not shift under commands that speak of them (RFC 3501 section 7.4.1).
        let with_removals = !matches!(
            body,
            CommandBody::Fetch { uid: false, .. }
                | CommandBody::Store { uid: false, .. }
                | CommandBody::Search { uid: false, .. }
        );
        let end = match body {
            CommandBody::Capability => {
                let _ = write!(output, "* CAPABILITY {}\r\n", self.capabilities());
                End::ok("capabilities listed")
            }
            CommandBody::Noop => End::ok("done"),
            CommandBody::Login { username, password } => {
                let end = self.login(username.as_ref(), password.declassify().as_ref());
                return self.end_login(tag, end, out).await;
            }
            body if self.mailbox.is_some() => self.handle_authenticated(body, out).await?,
            _ => End::bad("log in first"),
        };
        self.tell_news(with_removals, out).await?;
        let _ = write!(out.text(), "{tag} {} {}\r\n", end.status, end.text);
        Ok(Next::Command)
    }

    fn begin_idle(&mut self, tag: &str, output: &mut Vec<u8>) -> Next {
        if self.mailbox.is_some() {
            return Next::Idle;
        }
        let _ = write!(output, "{tag} BAD log in first\r\n");
        Next::NoIdle
    }

    async fn handle_authenticated(
        &mut self,
        body: CommandBody<'static>,
        out: &mut Outgoing,
    ) -> io::Result<End> {
        let output = out.text();
        Ok(match body {
            CommandBody::Select { mailbox } => self.select(&mailbox, false, output),
            CommandBody::Examine { mailbox } => self.select(&mailbox, true, output),
            CommandBody::List { reference, mailbox_wildcard } => {
                list("LIST", &reference, &mailbox_wildcard, output);
                End::ok("listed")
            }
            CommandBody::Lsub { reference, mailbox_wildcard } => {
                list("LSUB", &reference, &mailbox_wildcard, output);
                End::ok("listed")
            }
            CommandBody::Status { mailbox, item_names } => self.status(&mailbox, &item_names, output),
            CommandBody::Subscribe { mailbox: MailboxName::Inbox } => End::ok("INBOX is always subscribed"),
            CommandBody::Create { .. }
            | CommandBody::Delete { .. }
            | CommandBody::Rename { .. }
            | CommandBody::Subscribe { .. }
            | CommandBody::Unsubscribe { .. } => End::no("there is INBOX and nothing else"),
            CommandBody::Append { .. } => End::no("mail comes by SMTP alone"),
            body if self.view.is_some() => self.handle_selected(body, out).await?,
            _ => End::bad("select a mailbox first"),
        })
    }

    async fn handle_selected(&mut self, body: CommandBody<'static>, out: &mut Outgoing) -> io::Result<End> {
        Ok(match body {
            CommandBody::Check => End::ok("checked"),
            CommandBody::Close => {
                self.expunge(None);
                self.view = None;
                End::ok("closed")
            }
            CommandBody::Unselect => {
                self.view = None;
                End::ok("unselected")
            }
            CommandBody::Expunge => self.expunge(None),
            CommandBody::ExpungeUid { sequence_set } => self.expunge(Some(&sequence_set)),
            CommandBody::Fetch { sequence_set, macro_or_item_names, uid } => {
                self.fetch(&sequence_set, &macro_or_item_names, uid, out).await?
            }
            CommandBody::Store { sequence_set, kind, response, flags, uid } => {
                let silent = response == StoreResponse::Silent;
                self.store((&sequence_set, uid), Change::new(kind, &flags), silent, out).await?
            }
            CommandBody::Search { charset, criteria, uid } => {
                self.search(charset.as_ref(), criteria.as_ref(), uid, out).await?
            }
            CommandBody::Copy { .. } | CommandBody::Move { .. } => End::no("there is INBOX and nothing else"),
            _ => End::bad("the command is not supported"),
        })
    }

    fn select(&mut self, name: &MailboxName<'_>, read_only: bool, output: &mut Vec<u8>) -> End {
        // A failed SELECT leaves no mailbox selected (RFC 3501 section 6.3.1).
        (self.view, self.answer) = (None, None);
        let (MailboxName::Inbox, Some(mailbox)) = (name, &self.mailbox) else {
            return End::no("there is INBOX and nothing else");
        };
        let mut state = mailbox.lock();
        let view = View::open(&mut state, read_only);
        let (uid_validity, uid_next) = (mailbox.uid_validity(), state.uid_next());
        let is_unseen = |message: &Message| !message.flags().contains(Flags::SEEN);
        let any = state.counts().unseen > 0;
        let unseen = any.then(|| state.messages().iter().position(is_unseen)).flatten();
        drop(state);
        let permanent = if read_only { "" } else { "\\Answered \\Flagged \\Deleted \\Seen \\Draft" };
        let _ = write!(
            output,
            "* FLAGS (\\Answered \\Flagged \\Deleted \\Seen \\Draft)\r\n\
             * OK [PERMANENTFLAGS ({permanent})] the flags that last\r\n\
             * {} EXISTS\r\n* {} RECENT\r\n\
             * OK [UIDVALIDITY {uid_validity}] UIDs are valid\r\n\
             * OK [UIDNEXT {uid_next}] predicted next UID\r\n",
            view.len(),
            view.recent(),
        );
        if let Some(index) = unseen {
            let _ = write!(output, "* OK [UNSEEN {}] first unseen\r\n", index + 1);
        }
        self.view = Some(view);
        End::ok(if read_only { "[READ-ONLY] INBOX examined" } else { "[READ-WRITE] INBOX selected" })
    }

    fn status(&self, name: &MailboxName<'_>, items: &[StatusDataItemName], output: &mut Vec<u8>) -> End {
        let (MailboxName::Inbox, Some(mailbox)) = (name, &self.mailbox) else {
            return End::no("there is INBOX and nothing else");
        };
        let state = mailbox.lock();
        let (messages, counts) = (state.messages(), state.counts());
        let _ = write!(output, "* STATUS INBOX (");
        let mut told: Vec<&StatusDataItemName> = Vec::new();
        for item in items {
            if told.contains(&item) {
                continue;
            }
            let space = if told.is_empty() { "" } else { " " };
            told.push(item);
            let (name, value) = match item {
                StatusDataItemName::Messages => ("MESSAGES", messages.len()),
                StatusDataItemName::Recent => {
                    let known = messages.partition_point(|message| message.uid() < state.recent_from());
                    ("RECENT", messages.len() - known)
                }
                StatusDataItemName::UidNext => ("UIDNEXT", state.uid_next() as usize),
                StatusDataItemName::UidValidity => ("UIDVALIDITY", mailbox.uid_validity() as usize),
                StatusDataItemName::Unseen => ("UNSEEN", counts.unseen),
                StatusDataItemName::Deleted => ("DELETED", counts.deleted),
                StatusDataItemName::DeletedStorage => ("DELETED-STORAGE", counts.deleted_octets as usize),
            };
            let _ = write!(output, "{space}{name} {value}");
        }
        output.extend_from_slice(b")\r\n");
        End::ok("counted")
    }

    /// Removes the messages that are marked as deleted, all or those of a UID set.
    fn expunge(&mut self, uids: Option<&SequenceSet>) -> End {
        let (Some(mailbox), Some(view)) = (&self.mailbox, &self.view) else {
            return End::bad("nothing selected");
        };
        if view.read_only() {
            return End::no("the mailbox is read-only");
        }
        if mailbox.lock().counts().deleted == 0 {
            return End::ok("nothing to expunge");
        }
        let ranges = uids.map(|uids| set::ranges(uids, view.largest(true)));
        let removed = mailbox.lock().remove(|message| {
            let named = ranges.as_ref().is_none_or(|ranges| set::contains(ranges, message.uid()));
            named && message.flags().contains(Flags::DELETED)
        });
        // Outside the lock: the memory may go back to the system with them.
        drop(removed);
        End::ok("expunged")
    }

    async fn store(
        &mut self,
        named: (&SequenceSet, bool),
        change: Change,
        silent: bool,
        out: &mut Outgoing,
    ) -> io::Result<End> {
        let (Some(mailbox), Some(view)) = (&self.mailbox, &mut self.view) else {
            return Ok(End::bad("nothing selected"));
        };
        if view.read_only() {
            return Ok(End::no("the mailbox is read-only"));
        }
        Ok(match store(mailbox, view, named, change, silent, out).await? {
            Stored::NoSuchMessage => End::bad("no such message"),
            // Whoever asked for silence has nothing to miss (RFC 2180 section 4.2.3).
            Stored::Some if !named.1 && !silent => End::no("some of the messages are gone"),
            Stored::Some | Stored::All => End::ok("stored"),
        })
    }

    async fn search(
        &mut self,
        charset: Option<&Charset<'_>>,
        keys: &[SearchKey<'static>],
        uid: bool,
        out: &mut Outgoing,
    ) -> io::Result<End> {
        let (Some(mailbox), Some(view)) = (&self.mailbox, &self.view) else {
            return Ok(End::bad("nothing selected"));
        };
        let known = |charset: &Charset<'_>| {
            ["US-ASCII", "UTF-8"].iter().any(|name| charset.as_ref().eq_ignore_ascii_case(name))
        };
        if !charset.is_none_or(known) {
            return Ok(End::no("[BADCHARSET (US-ASCII UTF-8)] the charset is not supported"));
        }
        let search = match Search::compile(keys, uid, view) {
            Ok(search) => search,
            Err(Refused::TooManyKeys) => return Ok(End::no("[LIMIT] there are too many search keys")),
            Err(Refused::Unsupported) => {
                let text = "messages are found by flags, numbers, sizes and INTERNALDATE, not by content";
                return Ok(End::no(text));
            }
        };
        out.text().extend_from_slice(b"* SEARCH");
        self.answer = search.write(mailbox, view, self.answer.take(), out).await?;
        out.text().extend_from_slice(b"\r\n");
        Ok(End::ok("searched"))
    }

    async fn fetch(
        &mut self,
        named: &SequenceSet,
        asked: &MacroOrMessageDataItemNames<'_>,
        uid: bool,
        out: &mut Outgoing,
    ) -> io::Result<End> {
        let (Some(mailbox), Some(view)) = (&self.mailbox, &mut self.view) else {
            return Ok(End::bad("nothing selected"));
        };
        let items = match Items::compile(asked, uid) {
            Ok(items) => items,
            Err(unsupported) => return Ok(End::no(unsupported.0)),
        };
        let Some(ranges) = view.select(named, uid) else { return Ok(End::bad("no such message")) };
        let mut indices = ranges.into_iter().flatten();
        let mut gone = false;
        loop {
            let batch: Vec<usize> = indices.by_ref().take(FETCH_BATCH).collect();
            if batch.is_empty() {
                break;
            }
            let (news, messages) = look_up(mailbox, view, &batch, &items);
            news.write(out).await?;
            for (index, message, seen) in messages {
                let Some(message) = message else {
                    gone = true;
                    continue;
                };
                let flags = view.flags(index, message.flags());
                items.write(index as u32 + 1, &message, flags, seen, out).await?;
            }
            let_others_run().await;
        }
        Ok(if gone && !uid { End::no("some of the messages are gone") } else { End::ok("fetched") })
    }
}

/// Looks up a batch of messages under one lock; where the items say so they get `\Seen`. Gives what is to be told first, and of each
/// message the index, the message if it is still there, and whether its flags were changed by this.
fn look_up(
    mailbox: &Mailbox,
    view: &mut View,
    batch: &[usize],
    items: &Items,
) -> (News, Vec<(usize, Option<Message>, bool)>) {
    let mut news = News::default();
    let mut state = mailbox.lock();
    let unseen = |message: &Message| !message.flags().contains(Flags::SEEN);
    let mark_seen = items.mark_seen() && !view.read_only();
    if items.read_text() {
        state.mark_read(batch.iter().map(|&index| view.uid(index)));
    }
    let mut marked = Vec::new();
    if mark_seen {
        let uids = batch.iter().map(|&index| view.uid(index));
        marked.extend(uids.filter(|&uid| state.find(uid).is_some_and(unseen)));
    }
    if !marked.is_empty() {
        // First what others did, so that the session's own changes are the only ones after it, unless there is too much of that.
        news = view.refresh(&mut state, false);
        state.set_flags(marked.iter().copied(), |flags| flags.with(Flags::SEEN));
        if !news.more {
            view.own_changes(&state);
        }
    }
    let found = |&index: &usize| {
        let uid = view.uid(index);
        (index, state.find(uid).cloned(), marked.binary_search(&uid).is_ok())
    };
    (news, batch.iter().map(found).collect())
}
