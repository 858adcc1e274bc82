//! Mosquitto as a child process on a loopback port of its own.

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::net::TcpStream;

#[derive(Clone, Default)]
pub struct MosquittoConfig {
    pub persistence: Persistence,
    /// Refuses every client that does not show this user and password.
    pub login: Option<(String, String)>,
    /// Refuses to subscribe at or below these prefixes, and closes the connection of a client that
    /// publishes there. Not together with `login`.
    pub refused: Vec<String>,
    pub max_packet_size: Option<usize>,
    /// How many messages that it has not acknowledged a client is sent; no limit without.
    pub window: Option<u16>,
    /// Further lines of the configuration, before the listener.
    pub lines: Vec<String>,
    /// Further lines of the listener: its protocol, its certificates, who may do what.
    pub listener: Vec<String>,
}

/// Whether sessions and retained messages outlive a restart.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub enum Persistence {
    #[default]
    Off,
    /// After [`Mosquitto::terminate`], not after [`Mosquitto::kill`].
    OnExit,
    /// After [`Mosquitto::kill`] as well.
    OnChange,
}

/// A running, paused or stopped broker. Killed when dropped.
pub struct Mosquitto {
    binary: PathBuf,
    config: MosquittoConfig,
    dir: TempDir,
    addr: SocketAddr,
    child: Option<Child>,
}

impl Mosquitto {
    /// `None` if this machine has no mosquitto.
    pub async fn start(config: MosquittoConfig) -> Option<Self> {
        let mut broker = Self {
            binary: find("mosquitto")?,
            config,
            dir: tempfile::tempdir().expect("a temporary directory"),
            addr: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            child: None,
        };
        for _ in 0..START_ATTEMPTS {
            broker.addr.set_port(free_port());
            broker.write_files();
            if broker.spawn_and_wait().await {
                return Some(broker);
            }
        }
        panic!("mosquitto does not start:\n{}", broker.log());
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub fn url(&self) -> String {
        super::url(self.addr)
    }

    /// What the broker has written since its last start.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join(LOG)).unwrap_or_default()
    }

    /// Ends it by SIGTERM and waits for its end.
    pub async fn terminate(&mut self) {
        self.signal("CONT");
        self.signal("TERM");
        self.wait_for_exit().await;
    }

    /// Ends it by SIGKILL and waits for its end.
    pub async fn kill(&mut self) {
        self.child.as_mut().expect("mosquitto runs").kill().expect("mosquitto can be killed");
        self.wait_for_exit().await;
    }

    /// Starts it on the same port with the same files after it was ended.
    pub async fn start_again(&mut self) {
        assert!(self.child.is_none(), "mosquitto runs already");
        for _ in 0..START_ATTEMPTS {
            if self.spawn_and_wait().await {
                return;
            }
        }
        panic!("mosquitto does not start again:\n{}", self.log());
    }

    /// Halts it: its connections stay open, and nothing is answered.
    pub fn pause(&self) {
        self.signal("STOP");
    }

    pub fn resume(&self) {
        self.signal("CONT");
    }

    /// False if it ended instead of accepting connections, as it does if its port is taken.
    async fn spawn_and_wait(&mut self) -> bool {
        let log = File::create(self.dir.path().join(LOG)).expect("a writable directory");
        let child = Command::new(&self.binary)
            .arg("-c")
            .arg(self.dir.path().join(CONFIG))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file"))
            .stderr(log)
            .spawn()
            .expect("mosquitto can be started");
        self.child = Some(child);
        let started = Instant::now();
        while started.elapsed() < TIME_LIMIT {
            if self.has_exited() {
                return false;
            }
            // Its log as well as its port: the port alone may be that of another process.
            if self.log().contains(" running") && TcpStream::connect(self.addr).await.is_ok() {
                return true;
            }
            tokio::time::sleep(POLL_PAUSE).await;
        }
        panic!("mosquitto does not accept connections:\n{}", self.log());
    }

    async fn wait_for_exit(&mut self) {
        let started = Instant::now();
        while !self.has_exited() {
            assert!(started.elapsed() < TIME_LIMIT, "mosquitto does not end:\n{}", self.log());
            tokio::time::sleep(POLL_PAUSE).await;
        }
    }

    fn has_exited(&mut self) -> bool {
        let Some(child) = &mut self.child else {
            return true;
        };
        let exited = child.try_wait().expect("a child can be waited for").is_some();
        if exited {
            self.child = None;
        }
        exited
    }

    fn signal(&self, name: &str) {
        let pid = self.child.as_ref().expect("mosquitto runs").id();
        // The shell has `kill` built in; not every container has the program.
        let status = Command::new("sh").arg("-c").arg(format!("kill -{name} {pid}")).status().expect("a shell");
        assert!(status.success(), "kill -{name} {pid} failed");
    }

    fn write_files(&self) {
        let dir = self.dir.path();
        let data = dir.join("data");
        fs::create_dir_all(&data).expect("a writable directory");
        let mut lines = vec![
            "per_listener_settings true".to_owned(),
            "log_dest stderr".to_owned(),
            // Unset, small acknowledgements wait for each other and throughput falls to a tenth.
            "set_tcp_nodelay true".to_owned(),
            // The default of 1000 drops the rest silently.
            "max_queued_messages 0".to_owned(),
            format!("max_inflight_messages {}", self.config.window.unwrap_or(0)),
        ];
        // Started as root it would drop to a user that cannot read this directory.
        if fs::metadata(dir).expect("an existing directory").uid() == 0 {
            lines.push("user root".to_owned());
        }
        if let Some(bytes) = self.config.max_packet_size {
            lines.push(format!("max_packet_size {bytes}"));
        }
        if self.config.persistence != Persistence::Off {
            lines.push("persistence true".to_owned());
            lines.push(format!("persistence_location {}/", data.display()));
        }
        if self.config.persistence == Persistence::OnChange {
            lines.push("autosave_interval 1".to_owned());
            lines.push("autosave_on_changes true".to_owned());
        }
        lines.extend(self.config.lines.iter().cloned());
        lines.push(format!("listener {} 127.0.0.1", self.addr.port()));
        lines.extend(self.access_lines());
        lines.extend(self.config.listener.iter().cloned());
        lines.push(String::new());
        fs::write(dir.join(CONFIG), lines.join("\n")).expect("a writable directory");
    }

    fn access_lines(&self) -> Vec<String> {
        let dir = self.dir.path();
        let Some((user, password)) = &self.config.login else {
            let mut lines = vec!["allow_anonymous true".to_owned()];
            if !self.config.refused.is_empty() {
                let file = dir.join("dynsec.json");
                fs::write(&file, refusals(&self.config.refused)).expect("a writable directory");
                // An `acl_file` would do for publishing, but grants every subscription.
                lines.push(format!("plugin {}", find_plugin().display()));
                lines.push(format!("plugin_opt_config_file {}", file.display()));
            }
            return lines;
        };
        assert!(self.config.refused.is_empty(), "login and refused prefixes do not go together");
        let file = dir.join("passwords");
        let status = Command::new(find("mosquitto_passwd").expect("mosquitto_passwd"))
            .arg("-b")
            .arg("-c")
            .args([file.as_os_str(), user.as_ref(), password.as_ref()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .expect("mosquitto_passwd can be started");
        assert!(status.success(), "mosquitto_passwd failed");
        vec!["allow_anonymous false".to_owned(), format!("password_file {}", file.display())]
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

/// The file of the dynamic security plugin, for anonymous clients.
fn refusals(prefixes: &[String]) -> String {
    let acls: Vec<String> = prefixes
        .iter()
        .flat_map(|prefix| {
            ["publishClientSend", "subscribePattern"]
                .map(|kind| format!(r#"{{"acltype":"{kind}","topic":"{prefix}/#","priority":1,"allow":false}}"#))
        })
        .collect();
    format!(
        r#"{{"defaultACLAccess":{{"publishClientSend":true,"publishClientReceive":true,"subscribe":true,"unsubscribe":true}},
"groups":[{{"groupname":"anonymous","roles":[{{"rolename":"refusals"}}]}}],"anonymousGroup":"anonymous",
"roles":[{{"rolename":"refusals","acls":[{}]}}]}}"#,
        acls.join(",")
    )
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/local/sbin", "/usr/bin"].map(PathBuf::from))
        .map(|dir| dir.join(program))
        .find(|candidate| candidate.is_file())
}

fn find_plugin() -> PathBuf {
    let roots = ["/usr/lib", "/usr/lib64", "/usr/local/lib"].map(PathBuf::from);
    let below = roots.iter().flat_map(|root| subdirectories(root));
    below
        .chain(roots.iter().cloned())
        .map(|dir| dir.join("mosquitto_dynamic_security.so"))
        .find(|candidate| candidate.is_file())
        .expect("mosquitto's dynamic security plugin")
}

fn subdirectories(root: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(root).into_iter().flatten();
    entries.flatten().map(|entry| entry.path()).collect()
}

/// Below the range the kernel takes ports from for outgoing connections: a client that dials a
/// stopped broker in that range again and again may be connected to itself and hold the port.
fn free_port() -> u16 {
    static TRIED: AtomicU16 = AtomicU16::new(0);
    // Several test processes at a time begin at different ports.
    let first = process::id().wrapping_mul(7919) % PORTS;
    for _ in 0..PORTS {
        let offset = u32::from(TRIED.fetch_add(1, Ordering::Relaxed));
        let port = u16::try_from(FIRST_PORT + (first + offset) % PORTS).expect("a port");
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Ok(_) => return port,
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => panic!("no loopback port: {error}"),
        }
    }
    panic!("no free loopback port");
}

const CONFIG: &str = "mosquitto.conf";
const LOG: &str = "mosquitto.log";
const FIRST_PORT: u32 = 12_000;
const PORTS: u32 = 20_000;
const START_ATTEMPTS: u32 = 20;
const TIME_LIMIT: Duration = Duration::from_secs(10);
const POLL_PAUSE: Duration = Duration::from_millis(5);
