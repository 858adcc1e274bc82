//! Runs the plan: every client in turn in each round, so that what slows the machine down slows all of them down.

use std::collections::{BTreeMap, HashMap};
use std::io::{stderr, Write};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::broker::Broker;
use crate::plan::{Contender, Item, Setting, CONTENDERS, COUNTED, ITEMS};
use crate::process::{Answer, Process, Sample};
use crate::tls::Identity;
use crate::work::Work;

/// By place, item and client.
pub(crate) type Samples = HashMap<(Setting, &'static str, &'static str), Vec<Sample>>;

#[derive(Default)]
pub(crate) struct Results {
    pub(crate) samples: Samples,
    /// Operations and what they took, by item and client.
    pub(crate) allocations: HashMap<(&'static str, &'static str), f64>,
    pub(crate) instructions: HashMap<(&'static str, &'static str), f64>,
    /// MiB after connecting, and at most; by client.
    pub(crate) memory: HashMap<&'static str, (f64, f64)>,
    /// What was left out, and why.
    pub(crate) missing: BTreeMap<String, String>,
    pub(crate) settings: Vec<Setting>,
}

/// How much is measured.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    Whole,
    /// Everything, once and with less work.
    Quick,
    /// The items with these names.
    Only(Vec<String>),
}

pub(crate) struct Lab {
    core: Option<usize>,
    scope: Scope,
    started: Instant,
}

const ROUNDS: usize = 7;
/// When this much of the time for all is used up, an item has one round, and without the clients that take longest.
const HURRY: Duration = Duration::from_secs(9 * 60);
/// What takes a client longer than this at its first try, it does not do again: that one counts.
const ONCE: Duration = Duration::from_secs(3);
/// No item takes longer than this for all clients and rounds, save its last round.
const ITEM: Duration = Duration::from_secs(12);

impl Lab {
    pub(crate) fn new(core: Option<usize>, scope: Scope) -> Self {
        Self { core, scope, started: Instant::now() }
    }

    fn is_quick(&self) -> bool {
        self.scope == Scope::Quick
    }

    fn has(&self, item: &Item) -> bool {
        match &self.scope {
            Scope::Only(names) => names.iter().any(|name| name == item.key),
            _ => true,
        }
    }

    pub(crate) fn run(&self) -> Results {
        let mut results = Results::default();
        if !matches!(self.scope, Scope::Only(_)) {
            self.count(&Broker::null(self.core, None), &mut results);
        }
        let identity = Identity::new();
        for setting in Setting::ALL {
            let start = |name: &str| Broker::start(setting, self.core, &identity, name);
            if start("probe").is_some() {
                self.time(setting, start, &mut results);
            } else {
                results.missing.insert(setting.name().to_owned(), "it is not installed here".to_owned());
            }
        }
        results
    }

    /// Each client has a broker of its own, so that it gets nothing that the others asked for, and for each item a new
    /// process, so that it does not suffer from what it did before.
    fn time(&self, setting: Setting, start: impl Fn(&str) -> Option<Broker>, results: &mut Results) {
        results.settings.push(setting);
        let mut taking_part: Vec<_> =
            CONTENDERS.iter().filter_map(|contender| Some((contender, start(contender.name)?))).collect();
        for item in ITEMS.iter().filter(|item| self.has(item) && (item.over_tls || !setting.is_tls())) {
            self.progress(&format!("{}: {}", setting.name(), item.key));
            let mut clients = Vec::new();
            for (contender, broker) in &taking_part {
                let Some(process) = Process::start(&self.command(contender, broker)) else {
                    let why = if contender.is_python { "Python does not have it here, or " } else { "" };
                    let why = format!("{why}it did not connect to {}", setting.name());
                    results.missing.entry(contender.label.to_owned()).or_insert(why);
                    continue;
                };
                if setting == Setting::Null {
                    note_memory(contender, &process, results);
                }
                clients.push((*contender, process));
            }
            self.time_item(setting, item, &mut clients, results);
            // What failed is not asked again.
            taking_part.retain(|(contender, _)| clients.iter().any(|(client, _)| client.name == contender.name));
            for (contender, process) in clients {
                if setting == Setting::Null {
                    note_memory(contender, &process, results);
                }
                process.finish();
            }
        }
    }

    fn time_item(
        &self,
        setting: Setting,
        item: &Item,
        clients: &mut Vec<(&'static Contender, Process)>,
        results: &mut Results,
    ) {
        let start = Instant::now();
        let hurries = self.started.elapsed() > HURRY;
        let (rounds, times) = if self.is_quick() || hurries { (1, 1) } else { (ROUNDS, item.times) };
        let slow = clients.iter().map(|(contender, _)| contender).filter(|contender| contender.is_python);
        let mut left_out: Vec<_> = slow.filter(|_| hurries).map(|contender| contender.name).collect();
        if hurries {
            results.missing.insert("Python, for the last items".to_owned(), "there was no time for it".to_owned());
        }
        // The first is not counted: it subscribes, and fills what is kept for later.
        for round in 0..=rounds * times {
            if round > 1 && start.elapsed() > ITEM * times as u32 {
                break;
            }
            clients.retain_mut(|(contender, process)| {
                if left_out.contains(&contender.name) || contender.is_python && round > rounds {
                    return true;
                }
                let mut answer = Answer::Done(Sample::default());
                if item.held > 0 && round == 0 {
                    answer = process.perform(Work::Hold { filters: item.held });
                }
                let by = contender.slower * setting.slower() * if self.is_quick() { 10 } else { 1 };
                if let Answer::Done(_) = answer {
                    answer = process.perform(item.work.divided(by));
                }
                match answer {
                    Answer::Done(sample) if round == 0 && sample.wall < ONCE.as_secs_f64() => true,
                    Answer::Done(sample) => {
                        if round == 0 {
                            left_out.push(contender.name);
                        }
                        results.samples.entry((setting, item.key, contender.name)).or_default().push(sample);
                        true
                    }
                    Answer::Cannot => {
                        left_out.push(contender.name);
                        true
                    }
                    Answer::Failed => {
                        let why = format!("it failed or took too long at \"{}\" on {}", item.key, setting.name());
                        results.missing.insert(contender.label.to_owned(), why);
                        false
                    }
                }
            });
        }
    }

    /// Allocations, and instructions where valgrind is installed. Neither depends on what else the machine does.
    fn count(&self, broker: &Broker, results: &mut Results) {
        let has_valgrind = Command::new("valgrind").arg("--version").output().is_ok();
        if !has_valgrind {
            results.missing.insert("instructions".to_owned(), "valgrind is not installed here".to_owned());
        }
        for contender in CONTENDERS.iter().filter(|contender| !contender.is_python) {
            self.progress(&format!("counting: {}", contender.label));
            let command = self.command(contender, broker);
            if let Some(mut process) = Process::start(&command) {
                for (name, work) in COUNTED {
                    process.perform(work);
                    if let Answer::Done(sample) = process.perform(work) {
                        let each = sample.allocations / sample.operations;
                        results.allocations.insert((name, contender.name), each);
                    }
                }
                process.finish();
            }
            if !has_valgrind || self.is_quick() {
                continue;
            }
            let Some(base) = instructions(&command, &[]) else { continue };
            for (name, work) in COUNTED {
                if !results.allocations.contains_key(&(name, contender.name)) {
                    continue;
                }
                let work = work.divided(contender.slower);
                match instructions(&command, &[work]) {
                    Some(all) => {
                        let each = (all - base) / work.operations() as f64;
                        results.instructions.insert((name, contender.name), each);
                    }
                    None => {
                        let what = format!("{}, instructions of {name}", contender.label);
                        results.missing.insert(what, "it failed or took too long under callgrind".to_owned());
                    }
                }
            }
        }
    }

    /// Off the broker's core, if that has one of its own.
    fn command(&self, contender: &Contender, broker: &Broker) -> Vec<String> {
        let mut command = Vec::new();
        if let Some(core) = self.core {
            command.extend(["taskset".to_owned(), "-c".to_owned(), format!("0-{}", core - 1)]);
        }
        if contender.is_python {
            let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("client.py").display().to_string();
            command.extend(["python3".to_owned(), script, contender.name.to_owned()]);
        } else {
            let program = std::env::current_exe().expect("this program").display().to_string();
            command.extend([program, "client".to_owned(), contender.name.to_owned()]);
        }
        command.extend(broker.endpoint.words());
        command
    }

    fn progress(&self, what: &str) {
        let seconds = self.started.elapsed().as_secs();
        let _ = writeln!(stderr(), "[{:>2}:{:02}] {what}", seconds / 60, seconds % 60);
    }
}

/// The first of each client is when it has just connected.
fn note_memory(contender: &Contender, process: &Process, results: &mut Results) {
    let now = process.peak_memory().unwrap_or_default();
    let (_, most) = results.memory.entry(contender.name).or_insert((now, now));
    *most = most.max(now);
}

/// All that a client executes while it connects, does this and ends.
fn instructions(command: &[String], works: &[Work]) -> Option<f64> {
    let file = std::env::temp_dir().join(format!("peers-{}.callgrind", std::process::id()));
    let valgrind =
        ["valgrind".to_owned(), "--tool=callgrind".to_owned(), format!("--callgrind-out-file={}", file.display())];
    let command: Vec<_> = valgrind.into_iter().chain(command.iter().cloned()).collect();
    // `taskset` in front would be what is counted.
    let traced: Vec<_> = match command.iter().position(|word| word == "taskset") {
        Some(at) => command[at..at + 3].iter().chain(&command[..at]).chain(&command[at + 3..]).cloned().collect(),
        None => command,
    };
    let mut process = Process::start(&traced)?;
    let all_done = works.iter().all(|work| matches!(process.perform(*work), Answer::Done(_)));
    process.finish();
    let text = std::fs::read_to_string(&file).ok()?;
    let _ = std::fs::remove_file(&file);
    let totals = text.lines().find_map(|line| line.strip_prefix("totals: ").or(line.strip_prefix("summary: ")))?;
    all_done.then(|| totals.trim().parse().ok()).flatten()
}
