//! The brokers, each alone on the last core.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use crate::endpoint::Endpoint;
use crate::null_broker::{serve_devices, NullBroker};
use crate::plan::Setting;
use crate::tls::Identity;

/// Ends with the value.
pub(crate) struct Broker {
    pub(crate) endpoint: Endpoint,
    _process: Process,
}

enum Process {
    Null { _broker: NullBroker },
    Mosquitto { child: Child, directory: PathBuf },
}

impl Broker {
    /// `name` tells it from others of this process. None where it is not installed, or does not start.
    pub(crate) fn start(setting: Setting, core: Option<usize>, identity: &Identity, name: &str) -> Option<Self> {
        let identity = setting.is_tls().then_some(identity);
        match setting {
            Setting::Null | Setting::NullTls => Some(Self::null(core, identity)),
            Setting::Mosquitto | Setting::MosquittoTls => Self::mosquitto(core, identity, name),
        }
    }

    /// With TLS where it has an identity.
    pub(crate) fn null(core: Option<usize>, identity: Option<&Identity>) -> Self {
        let broker = match identity {
            Some(identity) => NullBroker::start_over(core, identity.opener()),
            None => NullBroker::start(core),
        };
        let endpoint = Endpoint { address: broker.address(), ca: identity.map(|identity| identity.ca.clone()) };
        Self { endpoint, _process: Process::Null { _broker: broker } }
    }

    fn mosquitto(core: Option<usize>, identity: Option<&Identity>, name: &str) -> Option<Self> {
        let program = ["/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto", "/usr/bin/mosquitto"]
            .into_iter()
            .find(|path| fs::exists(path).unwrap_or(false))?;
        let directory = std::env::temp_dir().join(format!("peers-{}-{name}", std::process::id()));
        fs::create_dir_all(&directory).ok()?;
        let file = directory.join("mosquitto.conf");
        let (plain, encrypted) = (free_address()?, free_address()?);
        fs::write(&file, configuration(plain, identity.map(|identity| (encrypted, identity)))).ok()?;
        let mut command = match core {
            Some(core) => {
                let mut command = Command::new("taskset");
                command.args(["-c", &core.to_string(), program]);
                command
            }
            None => Command::new(program),
        };
        let child = command.arg("-c").arg(&file).stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()?;
        let endpoint = match identity {
            Some(identity) => Endpoint { address: encrypted, ca: Some(identity.ca.clone()) },
            None => Endpoint { address: plain, ca: None },
        };
        let this = Self { endpoint, _process: Process::Mosquitto { child, directory } };
        let is_up = |_: &u32| {
            sleep(Duration::from_millis(20));
            TcpStream::connect(plain).is_ok()
        };
        (0..250).find(is_up)?;
        // What the devices encrypt would be measured too.
        serve_devices(plain, core).ok()?;
        Some(this)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Self::Mosquitto { child, directory } = self {
            let _ = child.kill();
            let _ = child.wait();
            let _ = fs::remove_dir_all(directory);
        }
    }
}

fn free_address() -> Option<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).ok()?.local_addr().ok()
}

fn configuration(plain: SocketAddr, encrypted: Option<(SocketAddr, &Identity)>) -> String {
    let tls = encrypted.map(|(address, identity)| {
        format!(
            "listener {} 127.0.0.1\ncertfile {}\nkeyfile {}\ntls_version tlsv1.3\nciphers_tls1.3 {}\n",
            address.port(),
            identity.certificate.display(),
            identity.key.display(),
            crate::tls::CIPHER_SUITE
        )
    });
    format!(
        "allow_anonymous true\nset_tcp_nodelay true\nmax_queued_messages 0\nmax_inflight_messages 0\nlog_dest none\n\
         user root\nlistener {} 127.0.0.1\n{}",
        plain.port(),
        tls.unwrap_or_default()
    )
}
