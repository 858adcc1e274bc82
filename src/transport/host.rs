//! Names and addresses of hosts: by themselves, in URLs, and with a port.

use std::net::Ipv6Addr;

use ::url::{Host, Url};

/// Whether it is a name or an address and nothing else: an IPv6 one without brackets, but maybe with its zone. What is
/// none may be a URL with a password in it, or break the line of a request to a proxy.
pub(super) fn is_host(text: &str) -> bool {
    let is_plain = |letter: char| !letter.is_control() && !letter.is_whitespace() && !r":/?#@[]\".contains(letter);
    let (address, zone) = text.split_once('%').unwrap_or((text, ""));
    let is_address = address.parse::<Ipv6Addr>().is_ok() && zone.chars().all(is_plain);
    !text.is_empty() && (is_address || text.chars().all(is_plain))
}

/// Without the brackets that a URL puts around an IPv6 address.
pub(super) fn of(url: &Url) -> Option<String> {
    let host = match url.host()? {
        Host::Ipv6(address) => address.to_string(),
        host => host.to_string(),
    };
    Some(host).filter(|host| !host.is_empty())
}

/// `host:port` as URLs and the HTTP header Host write it.
pub(super) fn with_port(host: &str, port: u16) -> String {
    match host.contains(':') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_or_an_address_alone() {
        for host in
            ["localhost", "broker.example.com", "my_broker", "10.0.0.1", "::1", "fe80::1%eth0", "bücher.example"]
        {
            assert!(is_host(host), "{host}");
        }
        for other in [
            "",
            "broker:1884",
            "mqtt://broker",
            "u:secret@broker",
            "broker/mqtt",
            "broker?a=b",
            "broker#a",
            "[::1]",
            "::1%a b",
            "::1%a]",
            "a b",
            "a\r\nX: y",
            "a\0",
            "a\\b",
        ] {
            assert!(!is_host(other), "{other}");
        }
    }

    #[test]
    fn an_address_of_ipv6_has_brackets_where_a_port_follows() {
        assert_eq!(with_port("::1", 1883), "[::1]:1883");
        assert_eq!(with_port("10.0.0.1", 1883), "10.0.0.1:1883");
    }
}
