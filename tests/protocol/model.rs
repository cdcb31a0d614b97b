//! A small model of Redis and of the processes that use it, and the search through everything that they can do.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;

type Id = u8;

/// The score of an index entry. A listed one grows with each touch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Score {
    Pending,
    Listed(u8),
}

/// The time that a key has to live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Key {
    /// Seconds: it may expire at any moment.
    Unconfirmed,
    /// Longer than the exploration.
    Full,
}

/// The protocol, and what it would be with one of its rules broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Current,
    /// Entries are removed whatever their score is by then.
    BlindRemoval,
    /// An insert or a regenerate is acknowledged whether or not its entry and its key stood.
    BlindConfirmation,
    /// A pending entry without a key is taken to be pending still when its key was read.
    TrustsPending,
    /// A sweep is complete although something had gone.
    SingleSweep,
}

/// What a process is to do, and how far it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Process {
    role: Role,
    step: u8,
    /// What it has read of the index.
    entries: Vec<(Id, Score)>,
    /// The keys that it found of these.
    found: Vec<Id>,
    /// Those that had none, with the score that was read.
    gone: Vec<(Id, Score)>,
    /// Those that had none and were pending.
    in_progress: Vec<Id>,
    /// Whether all replies were good so far.
    good: bool,
    /// For a sweep: what had been acknowledged when it began.
    before: BTreeSet<Id>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Role {
    Insert(Id),
    Supersede(Id, Id),
    Touch(Id),
    Revoke(Id),
    Sweep,
    List,
    Tidy,
}

const DONE: u8 = 100;

impl Process {
    fn new(role: Role) -> Self {
        Self {
            role,
            step: 0,
            entries: Vec::new(),
            found: Vec::new(),
            gone: Vec::new(),
            in_progress: Vec::new(),
            good: true,
            before: BTreeSet::new(),
        }
    }

    pub(crate) fn insert(id: Id) -> Self {
        Self::new(Role::Insert(id))
    }

    pub(crate) fn supersede(old: Id, new: Id) -> Self {
        Self::new(Role::Supersede(old, new))
    }

    pub(crate) fn touch(id: Id) -> Self {
        Self::new(Role::Touch(id))
    }

    pub(crate) fn revoke(id: Id) -> Self {
        Self::new(Role::Revoke(id))
    }

    pub(crate) fn sweep() -> Self {
        Self::new(Role::Sweep)
    }

    pub(crate) fn list() -> Self {
        Self::new(Role::List)
    }

    pub(crate) fn tidy() -> Self {
        Self::new(Role::Tidy)
    }
}

/// Redis, the processes, and what callers have been told.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct World {
    index: BTreeMap<Id, Score>,
    keys: BTreeMap<Id, Key>,
    processes: Vec<Process>,
    acknowledged: BTreeSet<Id>,
    /// Whose successor an id is.
    predecessor: BTreeMap<Id, Id>,
    /// What has been acknowledged as ended.
    ended: BTreeSet<Id>,
    /// Ids whose insert or regenerate crashed.
    crashed: BTreeSet<Id>,
}

pub(crate) struct Violation {
    what: &'static str,
    world: World,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:#?}", self.what, self.world)
    }
}

impl World {
    /// With sessions that were issued long ago.
    pub(crate) fn new(acknowledged: &[Id], processes: Vec<Process>) -> Self {
        Self {
            index: acknowledged.iter().map(|id| (*id, Score::Listed(0))).collect(),
            keys: acknowledged.iter().map(|id| (*id, Key::Full)).collect(),
            processes,
            acknowledged: acknowledged.iter().copied().collect(),
            predecessor: BTreeMap::new(),
            ended: BTreeSet::new(),
            crashed: BTreeSet::new(),
        }
    }

    /// Every world that one step of process `at` may lead to.
    fn step(&self, at: usize, protocol: Protocol) -> Vec<World> {
        let mut next = self.clone();
        let mut process = next.processes[at].clone();
        let mut choices = Vec::new();
        match process.role {
            Role::Insert(id) => next.insert(&mut process, id, protocol),
            Role::Supersede(old, new) => next.supersede(&mut process, old, new, protocol),
            Role::Touch(id) => next.touch(&mut process, id),
            Role::Revoke(id) => next.revoke(&mut process, id),
            Role::Sweep => choices = next.sweep(&mut process, protocol),
            Role::List => choices = next.list(&mut process, protocol),
            Role::Tidy => next.tidy(&mut process, protocol),
        }
        if choices.is_empty() {
            choices.push(process);
        }
        choices
            .into_iter()
            .map(|process| {
                let mut world = next.clone();
                world.processes[at] = process;
                world
            })
            .collect()
    }

    fn announce(&mut self, id: Id) {
        self.index.entry(id).or_insert(Score::Pending);
    }

    /// Answers whether the entry stood.
    fn confirm(&mut self, id: Id) -> bool {
        self.index.get_mut(&id).map(|score| *score = Score::Listed(1)).is_some()
    }

    fn correct(&mut self, (id, score): (Id, Score), protocol: Protocol) -> bool {
        let same = protocol == Protocol::BlindRemoval || self.index.get(&id) == Some(&score);
        same && self.index.remove(&id).is_some()
    }

    fn insert(&mut self, process: &mut Process, id: Id, protocol: Protocol) {
        process.step += 1;
        match process.step {
            1 => self.announce(id),
            2 => drop(self.keys.insert(id, Key::Full)),
            3 => process.good = self.confirm(id) || protocol == Protocol::BlindConfirmation,
            4 if process.good => {
                self.acknowledged.insert(id);
                process.step = DONE;
            }
            4 => drop(self.keys.remove(&id)),
            _ => {
                self.index.remove(&id);
                process.step = DONE;
            }
        }
    }

    fn supersede(&mut self, process: &mut Process, old: Id, new: Id, protocol: Protocol) {
        process.step += 1;
        match process.step {
            1 => self.announce(new),
            2 => drop(self.keys.insert(new, Key::Unconfirmed)),
            3 => {
                if self.keys.remove(&old).is_some() {
                    self.predecessor.insert(new, old);
                } else {
                    process.good = false;
                    process.step = 7;
                }
            }
            4 => match self.keys.get_mut(&new) {
                Some(key) => *key = Key::Full,
                None => process.good = protocol == Protocol::BlindConfirmation,
            },
            5 => process.good &= self.confirm(new) || protocol == Protocol::BlindConfirmation,
            6 => drop(self.index.remove(&old)),
            7 if process.good => {
                self.acknowledged.insert(new);
                process.step = DONE;
            }
            7 | 8 => {
                self.keys.remove(&new);
                process.step = 8;
            }
            _ => {
                self.index.remove(&new);
                process.step = DONE;
            }
        }
    }

    fn touch(&mut self, process: &mut Process, id: Id) {
        process.step += 1;
        match process.step {
            1 => {
                let later = Score::Listed(2);
                let score = self.index.entry(id).or_insert(later);
                *score = later.max(*score);
            }
            2 if self.keys.contains_key(&id) => process.step = DONE,
            2 => {}
            _ => {
                self.index.remove(&id);
                process.step = DONE;
            }
        }
    }

    fn revoke(&mut self, process: &mut Process, id: Id) {
        process.step += 1;
        match process.step {
            1 => process.good = self.keys.remove(&id).is_some(),
            2 => drop(self.index.remove(&id)),
            _ => {
                if process.good {
                    self.ended.insert(id);
                }
                process.step = DONE;
            }
        }
    }

    /// Reads the key of the next entry. Where it has none, the clocks may disagree whether a pending entry is overdue.
    fn look_up(&self, process: &mut Process) -> Vec<Process> {
        let (id, score) = process.entries.remove(0);
        if self.keys.contains_key(&id) {
            process.found.push(id);
            return vec![process.clone()];
        }
        let (mut waits, mut corrects) = (process.clone(), process.clone());
        waits.in_progress.push(id);
        corrects.gone.push((id, score));
        if score == Score::Pending { vec![waits, corrects] } else { vec![corrects] }
    }

    fn sweep(&mut self, process: &mut Process, protocol: Protocol) -> Vec<Process> {
        match process.step {
            // Begins.
            0 => {
                process.before.clone_from(&self.acknowledged);
                process.step = 1;
            }
            1 => {
                process.entries = self.index.iter().map(|(id, score)| (*id, *score)).collect();
                process.entries.sort_by_key(|(id, score)| (*score, *id));
                (process.found, process.gone, process.good) = (Vec::new(), Vec::new(), true);
                process.step = 2;
            }
            2 if !process.entries.is_empty() => return self.look_up(process),
            2 if !process.in_progress.is_empty() && process.good => {
                let pending = |id: Id| self.index.get(&id) == Some(&Score::Pending);
                process.good = process.in_progress.drain(..).all(pending) || protocol == Protocol::TrustsPending;
            }
            2 => {
                process.in_progress.clear();
                process.good &= process.gone.is_empty();
                for gone in std::mem::take(&mut process.gone) {
                    self.correct(gone, protocol);
                }
                process.entries = process.found.iter().map(|id| (*id, Score::Pending)).collect();
                process.step = 3;
            }
            // The keys, one by one, and then the entries.
            3 if !process.entries.is_empty() => {
                let (id, _) = process.entries.remove(0);
                if self.keys.remove(&id).is_some() {
                    self.ended.insert(id);
                } else {
                    process.good = false;
                }
            }
            3 => {
                for id in std::mem::take(&mut process.found) {
                    self.index.remove(&id);
                }
                process.step = if process.good || protocol == Protocol::SingleSweep { 4 } else { 1 };
            }
            _ => process.step = DONE,
        }
        vec![process.clone()]
    }

    fn list(&mut self, process: &mut Process, protocol: Protocol) -> Vec<Process> {
        match process.step {
            0 => {
                process.entries = self.index.iter().map(|(id, score)| (*id, *score)).collect();
                process.step = 1;
            }
            1 if !process.entries.is_empty() => return self.look_up(process),
            _ => {
                for gone in std::mem::take(&mut process.gone) {
                    self.correct(gone, protocol);
                }
                process.step = DONE;
            }
        }
        vec![process.clone()]
    }

    /// As if every entry were overdue.
    fn tidy(&mut self, process: &mut Process, protocol: Protocol) {
        match process.step {
            0 => {
                process.entries = self.index.iter().map(|(id, score)| (*id, *score)).collect();
                process.step = 1;
            }
            1 if !process.entries.is_empty() => {
                let entry = process.entries.remove(0);
                match (self.keys.contains_key(&entry.0), entry.1) {
                    (false, _) => process.gone.push(entry),
                    // To be abandoned: the entry first, and then the key.
                    (true, Score::Pending) => process.found.push(entry.0),
                    (true, Score::Listed(_)) => {}
                }
            }
            1 if !process.found.is_empty() => {
                let id = process.found[0];
                if self.correct((id, Score::Pending), protocol) {
                    process.step = 2;
                } else {
                    process.found.remove(0);
                }
            }
            2 => {
                self.keys.remove(&process.found.remove(0));
                process.step = 1;
            }
            _ => {
                for gone in std::mem::take(&mut process.gone) {
                    self.correct(gone, protocol);
                }
                process.step = DONE;
            }
        }
    }

    /// Whether a process may take its next step: nobody names a session that was not handed out.
    fn may_step(&self, process: &Process) -> bool {
        let known = |id: &Id| process.step > 0 || self.acknowledged.contains(id);
        match &process.role {
            _ if process.step == DONE => false,
            Role::Supersede(old, _) => known(old),
            Role::Touch(id) | Role::Revoke(id) => known(id),
            _ => true,
        }
    }

    /// What the whole is for.
    fn check(&self) -> Result<(), &'static str> {
        let live = |id: &Id| self.acknowledged.contains(id) && self.keys.contains_key(id);
        if self.ended.iter().any(|id| self.keys.contains_key(id)) {
            return Err("a session that was revoked is back");
        }
        for sweep in self.processes.iter().filter(|process| process.role == Role::Sweep && process.step == DONE) {
            let mut reached = sweep.before.clone();
            loop {
                let successors = self.predecessor.iter().filter(|(_, old)| reached.contains(old)).map(|(new, _)| *new);
                let more: BTreeSet<Id> = successors.chain(reached.iter().copied()).collect();
                if more.len() == reached.len() {
                    break;
                }
                reached = more;
            }
            if reached.iter().any(live) {
                return Err("a session outlived the revocation of its user");
            }
        }
        let mut successors = BTreeMap::<Id, u8>::new();
        for (new, old) in &self.predecessor {
            *successors.entry(*old).or_default() += u8::from(self.acknowledged.contains(new));
        }
        if successors.values().any(|successors| *successors > 1) {
            return Err("a session has two successors");
        }
        // A touch that has found no session is about to remove the entry that it has added.
        let is_listed = |id: &Id| matches!(self.index.get(id), Some(Score::Listed(_)));
        if self.keys.keys().any(|id| live(id) && !is_listed(id)) {
            return Err("a live session is in no list");
        }
        let over = self.processes.iter().all(|process| !self.may_step(process));
        let leaks =
            |(id, key): (&Id, &Key)| *key == Key::Full && !self.acknowledged.contains(id) && !self.crashed.contains(id);
        if over && self.keys.iter().any(leaks) {
            return Err("a session that nobody was given is stored for long");
        }
        Ok(())
    }
}

/// Goes through everything that can happen; returns how many worlds there were.
pub(crate) fn explore(world: World, protocol: Protocol) -> Result<usize, Box<Violation>> {
    let mut seen = HashSet::from([world.clone()]);
    let mut open = vec![world];
    while let Some(world) = open.pop() {
        world.check().map_err(|what| Box::new(Violation { what, world: world.clone() }))?;
        let mut next = Vec::new();
        for (at, process) in world.processes.iter().enumerate() {
            if !world.may_step(process) {
                continue;
            }
            next.extend(world.step(at, protocol));
            // Its process ends here.
            if let Role::Insert(new) | Role::Supersede(_, new) = process.role
                && process.step > 0
            {
                let mut crashed = world.clone();
                crashed.processes[at].step = DONE;
                crashed.crashed.insert(new);
                next.push(crashed);
            }
        }
        for (id, key) in &world.keys {
            if *key == Key::Unconfirmed {
                let mut expired = world.clone();
                expired.keys.remove(id);
                next.push(expired);
            }
        }
        for world in next {
            if seen.insert(world.clone()) {
                open.push(world);
            }
        }
    }
    Ok(seen.len())
}
