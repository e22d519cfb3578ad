//! What a receiving session does, round after round: take off what is no use any more, see what is new, look into the
//! other folders when that is due, then wait for the server to say that something came (IDLE, RFC 2177) or for the
//! next poll.
//!
//! Every command has an answer within a bound, or the peer counts as gone. Mails that were there before are fetched one
//! at a time in between, so that they never hold up a new one.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use serde_json::Value as Json;

use super::{
    answers::{hits, status_item, uid_of},
    client::{Client, Ear, Fault, Nobody, Open, Part, Waited},
    codec::{Response, Status, Value},
    folders::{self, Folder, Role},
    options::{Place, Wanted},
};
use crate::{
    clock,
    observation::{Kind, Phase, Reason, one_line},
    protocol::{
        Arrival, Attempt, Nature,
        mail::{
            compose::SUBJECT,
            copy_id,
            mailbox::Ends,
            parse::{self, MAIL_BYTES_MAX},
        },
    },
};

/// Shortest and longest wait for the answer to a command, whatever the keep alive is: a busy server needs seconds for a
/// search, and none needs more than a minute.
const ANSWER_MIN: Duration = Duration::from_secs(5);
const ANSWER_MAX: Duration = Duration::from_secs(60);

/// Most mails that were there before and are looked at in one folder, the newest: what many attempts may have left.
const LEFTOVERS_MAX: usize = 200;

/// Most new mails of one look; the rest is for the next.
const ROUND_MAX: usize = 200;

/// Up to so many new mails are fetched at once; of more than that, the headers come first.
const WHOLE_MAX: usize = 8;

/// Bytes of headers that tell whether a mail is worth fetching.
const HEADER_BYTES_MAX: usize = 16 * 1024;

/// Most mails that can be discarded; a handle is forgotten when so many came after it.
const HANDLES_MAX: usize = 4_096;

/// How often a mail is asked for of a server that says no, before it is passed over.
const FETCH_TRIES: usize = 3;

/// How often a folder may refuse to be searched before the session counts as gone.
const REFUSALS_MAX: u32 = 3;

/// The first look of a session that nothing was said of: most routes have brought the mail by then.
const TRUST_MIN: Duration = Duration::from_secs(2);

/// How often in a row mails are found that a server told nothing of while it idled, until it is polled.
const UNTOLD_MAX: u32 = 2;

/// Longest text about what could not be done, in characters.
const REMARK_CHARS_MAX: usize = 160;

/// A folder and how far it has been seen.
pub(super) struct Watched {
    /// The folder.
    pub folder: Folder,
    /// Its UIDVALIDITY: UIDs mean the same mails as long as it stays (RFC 9051, section 2.3.1.1).
    pub validity: u32,
    /// The first UID that has not been seen.
    next: u32,
    refusals: u32,
}

/// A mail that was handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Held {
    /// Which folder.
    pub folder: usize,
    /// As which UIDVALIDITY.
    pub validity: u32,
    /// Which mail.
    pub uid: u32,
}

/// An open session.
pub struct Watch {
    pub(super) client: Client,
    pub(super) folders: Vec<Watched>,
    /// Where mails go that are thrown away, if the server's folders were listed.
    pub(super) trash: Option<Vec<u8>>,
    pub(super) selected: Option<usize>,
    pub(super) handles: BTreeMap<u64, Held>,
    /// What could not be done; told with the next mail.
    pub(super) remark: Option<String>,
    pub(super) answer: Duration,
    next_handle: u64,
    leftovers: VecDeque<(usize, u32)>,
    poll: Duration,
    idle: bool,
    keep_alive: Duration,
    /// How long the server's silence is believed: up to the keep alive, the longer the more often nothing had come. A
    /// server may take IDLE and tell nothing in it (GNU Mailutils).
    trust: Duration,
    /// The look that comes is one nothing was said of.
    untold: bool,
    /// How often mails were found so since the server last told of one.
    untold_count: u32,
    looked_at: Instant,
    polled_at: Instant,
}

// ---------------------------------------------------------------------------------------------------------------
// Opening

impl Watch {
    /// Opens the folders and notes what lies there; a mail that comes from now on is seen.
    pub async fn open(mut client: Client, place: &Place, cx: &mut Attempt) -> Result<Self, Reason> {
        if client.can("ID") {
            // RFC 2971. Some providers open no folder for a program that does not say who it is.
            let _ = client.simple(cx, "ID (\"name\" \"bongsu\")").await.map_err(|fault| fault.reason(cx))?;
        }
        let found = folders::find(&mut client, cx, &place.wanted).await.map_err(|fault| fault.reason(cx))?;
        if found.left_out > 0 {
            let text = format!("the first {}; {} more are not watched", found.folders.len(), found.left_out);
            cx.detail("imap_folders", text);
        }
        let now = clock::instant();
        let watched = |folder| Watched { folder, validity: 0, next: 0, refusals: 0 };
        let mut watch = Self {
            client,
            folders: found.folders.into_iter().map(watched).collect(),
            trash: found.trash,
            selected: None,
            handles: BTreeMap::new(),
            remark: None,
            answer: place.keep_alive.clamp(ANSWER_MIN, ANSWER_MAX),
            next_handle: 0,
            leftovers: VecDeque::new(),
            poll: place.poll,
            idle: place.idle,
            keep_alive: place.keep_alive,
            trust: place.keep_alive.min(place.poll).min(TRUST_MIN),
            untold: false,
            untold_count: 0,
            looked_at: now,
            polled_at: now,
        };
        // The first one last: it stays open.
        for n in (0..watch.folders.len()).rev() {
            let opened = watch.select(cx, n).await.map_err(|fault| fault.reason(cx))?;
            if let Err(text) = opened {
                // Of all folders, one that may only be seen in the list is passed over.
                if n > 0 && place.wanted == Wanted::All {
                    watch.folders.remove(n);
                    watch.leftovers.iter_mut().filter(|(folder, _)| *folder > n).for_each(|(folder, _)| *folder -= 1);
                    continue;
                }
                return Err(cx.fail(Kind::Rejected, text));
            }
        }
        if watch.folders.is_empty() {
            return Err(cx.fail(Kind::Unexpected, "the server lists no folder to watch"));
        }
        Ok(watch)
    }

    /// Opens a folder; the words of the server when it refuses. Of one that is opened for the first time, or is another
    /// one by the same name, what lies there is noted.
    pub(super) async fn select(&mut self, ear: &mut dyn Ear, n: usize) -> Result<Result<(), String>, Fault> {
        let (wire, name) = (self.folders[n].folder.wire.clone(), self.folders[n].folder.name.clone());
        let shown = format!("SELECT {name}");
        let parts = [Part::Text("SELECT "), Part::String(&wire)];
        self.selected = None;
        self.untold = false;
        let reply = within("SELECT", self.answer, self.client.command(ear, &shown, &parts)).await?;
        if !reply.is_ok() {
            return Ok(Err(format!("the folder {name} cannot be opened: {}", reply.done.shown())));
        }
        self.selected = Some(n);
        let validity = reply.number("UIDVALIDITY").unwrap_or(0);
        let exists = reply.named("EXISTS").filter_map(|d| d.number).last().unwrap_or(0);
        let next = match reply.number("UIDNEXT") {
            Some(next) => next,
            None if exists == 0 => 1,
            None => self.highest(ear).await?.saturating_add(1),
        };
        let watched = &mut self.folders[n];
        if watched.next == 0 || watched.validity != validity {
            watched.validity = validity;
            watched.next = next.max(1);
            // That there are mails is told by every SELECT; what is told from here on is news.
            self.client.news = false;
            if exists > 0 {
                self.note_leftovers(ear, n, next).await?;
            }
        } else {
            self.client.news = next != watched.next;
        }
        Ok(Ok(()))
    }

    /// The highest UID of the selected folder, of a server that does not foretell the next.
    async fn highest(&mut self, ear: &mut dyn Ear) -> Result<u32, Fault> {
        let reply = within("UID FETCH", self.answer, self.client.simple(ear, "UID FETCH * (UID)")).await?;
        Ok(reply.named("FETCH").filter_map(uid_of).max().unwrap_or(0))
    }

    async fn note_leftovers(&mut self, ear: &mut dyn Ear, n: usize, next: u32) -> Result<(), Fault> {
        let command = format!("UID SEARCH SUBJECT \"{SUBJECT}\"");
        let reply = within("UID SEARCH", self.answer, self.client.simple(ear, &command)).await?;
        let uids = hits(&reply);
        let old: Vec<u32> = uids.into_iter().filter(|uid| *uid < next).collect();
        let newest = &old[old.len().saturating_sub(LEFTOVERS_MAX)..];
        self.leftovers.retain(|(folder, _)| *folder != n);
        self.leftovers.extend(newest.iter().map(|uid| (n, *uid)));
        Ok(())
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Watching

impl Watch {
    /// Watches until the session is closed or gone; why it is.
    pub async fn run(mut self, mut ends: Ends) -> Reason {
        match self.rounds(&mut ends).await {
            Ok(()) => Reason::new(Phase::Close, Kind::Closed, "the session was closed"),
            Err(fault) => fault.at_delivery(),
        }
    }

    async fn rounds(&mut self, ends: &mut Ends) -> Result<(), Fault> {
        loop {
            ends.take_in();
            if ends.closing {
                self.take_off(ends).await?;
                self.client.log_out(&mut Nobody).await;
                return Ok(());
            }
            if !self.client.news && clock::instant().saturating_duration_since(self.looked_at) >= self.trust {
                // Whether or not the server said that something came: some forget to.
                (self.client.news, self.untold) = (true, true);
            }
            if self.selected == Some(0) && self.client.news {
                self.look(ends).await?;
                continue;
            }
            if !ends.discarded.is_empty() {
                self.take_off(ends).await?;
                continue;
            }
            if self.folders.len() > 1 && clock::instant().saturating_duration_since(self.polled_at) >= self.poll {
                self.look_into_others(ends).await?;
                self.polled_at = clock::instant();
            }
            if self.selected != Some(0) {
                self.select(&mut Nobody, 0).await?.map_err(Fault::Refused)?;
                continue;
            }
            if let Some((folder, uid)) = self.leftovers.pop_front() {
                if self.is_selected(folder).await? {
                    self.fetch(ends, folder, uid, false).await?;
                }
                continue;
            }
            self.rest(ends).await?;
        }
    }

    /// Makes this folder the selected one; false when it cannot be opened any more.
    pub(super) async fn is_selected(&mut self, n: usize) -> Result<bool, Fault> {
        Ok(self.selected == Some(n) || self.select(&mut Nobody, n).await?.is_ok())
    }

    /// Waits until the server says that something came, something is discarded, or something is due.
    async fn rest(&mut self, ends: &mut Ends) -> Result<(), Fault> {
        let mut until = self.looked_at + self.trust;
        let push = self.idle && self.client.can("IDLE");
        if self.folders.len() > 1 {
            until = until.min(self.polled_at + self.poll);
        }
        if push {
            return self.idle(ends, until).await;
        }
        until = until.min(clock::instant() + self.poll);
        tokio::select! {
            biased;
            () = ends.asked() => return Ok(()),
            () = tokio::time::sleep_until(until.into()) => {}
        }
        within("NOOP", self.answer, self.client.simple(&mut Nobody, "NOOP")).await?;
        Ok(())
    }

    async fn idle(&mut self, ends: &mut Ends, until: Instant) -> Result<(), Fault> {
        let open = within("IDLE", self.answer, self.client.open_command(&mut Nobody, "IDLE", "IDLE")).await?;
        let Open { tag, waited: Waited::Asked(_) } = open else {
            // It says that it can, and refuses: it is polled from now on.
            self.idle = false;
            return Ok(());
        };
        let mut nobody = Nobody;
        // The time is looked at as well: a server that never stops talking leaves no other branch a turn.
        while !self.client.news && clock::instant() < until {
            tokio::select! {
                biased;
                response = self.client.response(&mut nobody) => {
                    match response? {
                        // Ended by the server: the next round begins anew.
                        Response::Status(Some(_), _) => return Ok(()),
                        Response::Status(None, said) if said.status == Status::Bye => {
                            return Err(Fault::Bye(said.shown()));
                        }
                        _ => {}
                    }
                }
                () = ends.asked() => break,
                () = tokio::time::sleep_until(until.into()) => break,
            }
        }
        let was_told = self.client.news;
        within("DONE", self.answer, self.client.go_on(&mut Nobody, tag, "DONE")).await?;
        self.untold = self.client.news && !was_told;
        self.untold_count *= u32::from(!was_told);
        Ok(())
    }

    async fn look_into_others(&mut self, ends: &mut Ends) -> Result<(), Fault> {
        for n in 1..self.folders.len() {
            let wire = self.folders[n].folder.wire.clone();
            let parts = [Part::Text("STATUS "), Part::String(&wire), Part::Text(" (UIDNEXT UIDVALIDITY)")];
            let reply = within("STATUS", self.answer, self.client.command(&mut Nobody, "STATUS", &parts)).await?;
            if !reply.is_ok() {
                continue;
            }
            let (next, validity) = (status_item(&reply, "UIDNEXT"), status_item(&reply, "UIDVALIDITY"));
            let watched = &self.folders[n];
            let same = next == Some(watched.next) && validity == Some(watched.validity);
            if !same && self.is_selected(n).await? {
                self.look(ends).await?;
            }
        }
        Ok(())
    }

    /// Fetches what is new in the selected folder.
    async fn look(&mut self, ends: &Ends) -> Result<(), Fault> {
        let Some(n) = self.selected else { return Ok(()) };
        let untold = std::mem::take(&mut self.untold);
        self.client.news = false;
        self.looked_at = clock::instant();
        let next = self.folders[n].next;
        let command = format!("UID SEARCH UID {next}:*");
        let reply = within("UID SEARCH", self.answer, self.client.simple(&mut Nobody, &command)).await?;
        if !reply.is_ok() {
            let watched = &mut self.folders[n];
            watched.refusals += 1;
            if watched.refusals > REFUSALS_MAX {
                return Err(Fault::Refused(format!("the search for new mails is refused: {}", reply.done.shown())));
            }
            return Ok(());
        }
        self.folders[n].refusals = 0;
        // `9:*` names the last mail even when its UID is lower.
        let mut new = hits(&reply);
        new.retain(|uid| *uid >= next);
        if new.is_empty() {
            // GNU Mailutils finds nothing in a range that ends with `*`, and lists it.
            let command = format!("UID FETCH {next}:* (UID)");
            let reply = within("UID FETCH", self.answer, self.client.simple(&mut Nobody, &command)).await?;
            new.extend(reply.named("FETCH").filter_map(uid_of).filter(|uid| *uid >= next));
            new.sort_unstable();
            new.dedup();
        }
        self.learn(!new.is_empty(), untold);
        let lean = new.len() > WHOLE_MAX;
        if new.len() > ROUND_MAX {
            new.truncate(ROUND_MAX);
            self.client.news = true;
        }
        for uid in new {
            self.fetch(ends, n, uid, lean).await?;
            self.folders[n].next = uid.saturating_add(1);
        }
        Ok(())
    }

    /// Learns from a look whether the server tells what comes while it idles; one that does not is polled.
    fn learn(&mut self, found: bool, untold: bool) {
        match (found, untold) {
            (true, true) => {
                self.untold_count += 1;
                self.trust = self.keep_alive.min(self.poll).min(TRUST_MIN);
                // Once may be chance: a mail that came between IDLE and the look.
                self.idle &= self.untold_count < UNTOLD_MAX;
            }
            (false, true) => self.trust = (self.trust * 2).min(self.keep_alive),
            (_, false) => {}
        }
    }

    /// Fetches a mail of the selected folder and hands it out. One that another client took away meanwhile is none.
    async fn fetch(&mut self, ends: &Ends, n: usize, uid: u32, lean: bool) -> Result<(), Fault> {
        if lean {
            let headers = self.body(uid, &format!("BODY.PEEK[HEADER]<0.{HEADER_BYTES_MAX}>")).await?;
            if !headers.is_some_and(|headers| parse::is_worth_reading(&headers)) {
                return Ok(());
            }
        }
        let mail = self.body(uid, &format!("BODY.PEEK[]<0.{MAIL_BYTES_MAX}>")).await?;
        let Some(mail) = mail else { return Ok(()) };
        let arrival = self.arrival(n, uid, &mail);
        ends.hand_out(arrival).await;
        Ok(())
    }

    async fn body(&mut self, uid: u32, what: &str) -> Result<Option<Vec<u8>>, Fault> {
        let command = format!("UID FETCH {uid} (UID {what})");
        let mut reply = within("UID FETCH", self.answer, self.client.simple(&mut Nobody, &command)).await?;
        for _ in 1..FETCH_TRIES {
            if reply.is_ok() {
                break;
            }
            reply = within("UID FETCH", self.answer, self.client.simple(&mut Nobody, &command)).await?;
        }
        let found = reply.named("FETCH").filter(|data| uid_of(data) == Some(uid)).find_map(|data| {
            let items = data.values.first()?.list()?;
            let at =
                items.iter().position(|i| i.atom().is_some_and(|a| a.to_ascii_uppercase().starts_with("BODY[")))?;
            match items.get(at + 1)? {
                Value::Text(text) => Some(text.clone()),
                _ => None,
            }
        });
        Ok(found)
    }

    fn arrival(&mut self, n: usize, uid: u32, mail: &[u8]) -> Arrival {
        let Watched { folder, validity, .. } = &self.folders[n];
        let validity = *validity;
        let read = parse::read(mail);
        let mut details = Vec::new();
        if self.folders.len() > 1 || !folder.is_inbox() {
            details.push(("folder", Json::from(folder.name.clone())));
        }
        details.extend(read.path.map(|path| ("path", path)));
        details.extend(self.remark.take().map(|text| ("left_on_server", Json::from(text))));
        let (nature, flaw) = match (folder.role, read.nature) {
            (Role::Sent, Nature::Message) => (Nature::Kept, None),
            (Role::Junk, Nature::Message) => (Nature::Message, Some(format!("in the spam folder {}", folder.name))),
            (Role::Trash, Nature::Message) => (Nature::Message, Some(format!("in the trash folder {}", folder.name))),
            (_, nature) => (nature, None),
        };
        let copy = copy_id(&[&folder.wire, &validity.to_be_bytes(), &uid.to_be_bytes()]);
        self.next_handle += 1;
        self.handles.insert(self.next_handle, Held { folder: n, validity, uid });
        if self.handles.len() > HANDLES_MAX {
            self.handles.pop_first();
        }
        Arrival {
            at: clock::instant(),
            payload: read.payload,
            nature,
            copy: Some(copy),
            handle: Some(self.next_handle),
            beside: read.beside,
            flaw,
            details,
        }
    }

    pub(super) fn remarks(&mut self, text: &str) {
        self.remark = Some(one_line(text, REMARK_CHARS_MAX));
    }
}

/// The answer to a command, within a bound.
pub(super) async fn within<T>(
    what: &'static str,
    bound: Duration,
    answer: impl Future<Output = Result<T, Fault>>,
) -> Result<T, Fault> {
    tokio::time::timeout(bound, answer).await.unwrap_or(Err(Fault::Silent(what, bound)))
}
