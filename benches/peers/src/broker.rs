//! The brokers, each alone on the last core, and what the benches have for that.

#[path = "../../throughput/cores.rs"]
pub(crate) mod cores;
// The criterion benches use more of it.
#[allow(dead_code)]
#[path = "../../throughput/null_broker.rs"]
mod null_broker;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use null_broker::{serve_devices, NullBroker};

pub(crate) enum Broker {
    Null(NullBroker),
    Mosquitto { child: Child, address: SocketAddr, directory: PathBuf },
}

impl Broker {
    pub(crate) fn null(core: Option<usize>) -> Self {
        Self::Null(NullBroker::start(core))
    }

    /// `name` tells it from others of this process. None where it is not installed.
    pub(crate) fn mosquitto(core: Option<usize>, name: &str) -> Option<Self> {
        let program = ["/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto", "/usr/bin/mosquitto"]
            .into_iter()
            .find(|path| fs::exists(path).unwrap_or(false))?;
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).ok()?.local_addr().ok()?;
        let directory = std::env::temp_dir().join(format!("peers-{}-{name}", std::process::id()));
        fs::create_dir_all(&directory).ok()?;
        let file = directory.join("mosquitto.conf");
        let port = address.port();
        let options = "allow_anonymous true\nset_tcp_nodelay true\nmax_queued_messages 0\nmax_inflight_messages 0\n";
        fs::write(&file, format!("listener {port} 127.0.0.1\n{options}log_dest none\nuser root\n")).ok()?;
        let mut command = match core {
            Some(core) => {
                let mut command = Command::new("taskset");
                command.args(["-c", &core.to_string(), program]);
                command
            }
            None => Command::new(program),
        };
        let child = command.arg("-c").arg(&file).stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()?;
        let this = Self::Mosquitto { child, address, directory };
        let is_up = |_: &u32| {
            sleep(Duration::from_millis(20));
            TcpStream::connect(address).is_ok()
        };
        (0..250).find(is_up)?;
        serve_devices(address, core).ok()?;
        Some(this)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        match self {
            Self::Null(broker) => broker.address(),
            Self::Mosquitto { address, .. } => *address,
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Self::Mosquitto { child, directory, .. } = self {
            let _ = child.kill();
            let _ = child.wait();
            let _ = fs::remove_dir_all(directory);
        }
    }
}
