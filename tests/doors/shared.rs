//! What only these tests have in common.

use mqtt_agent::{Agent, Endpoint, Options, QoS};
use tokio::io::DuplexStream;
use tokio::sync::mpsc;

use crate::support::{within, LIMIT};

/// A message to the agent itself, at the quality of service with the most packets; nothing is left behind.
pub(crate) async fn echo(agent: &Agent) {
    let mut stream = agent.subscribe("echo").qos(QoS::ExactlyOnce).await.unwrap();
    agent.publish("echo", "x").qos(QoS::ExactlyOnce).await.unwrap();
    let message = within(LIMIT, "the echo", stream.recv()).await.unwrap().unwrap();
    assert_eq!(message.text(), Ok("x"));
    stream.unsubscribe().await.unwrap();
}

/// An ignored test of this binary, to be run in a process of its own: what it looks at belongs to the whole process.
pub(crate) fn alone(test: &str) -> std::process::Command {
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--ignored", "--nocapture"]);
    command
}

/// Options for connections that end in the test, without a socket: what the far end does not take does not go anywhere.
pub(crate) fn over_duplex(options: Options) -> (Options, mpsc::UnboundedReceiver<(Endpoint, DuplexStream)>) {
    let (accepted, connections) = mpsc::unbounded_channel();
    let options = options.connector(move |endpoint| {
        let accepted = accepted.clone();
        async move {
            let (near, far) = tokio::io::duplex(64);
            accepted.send((endpoint, far)).map_err(|_| "nobody listens")?;
            Ok(near)
        }
    });
    (options, connections)
}
