//! Names to addresses by /etc/hosts.

use std::net::{IpAddr, SocketAddr};

/// `host:port`; the host is an address (v6 in brackets) or a name of /etc/hosts.
pub fn resolve(target: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = target.parse() {
        return Ok(address);
    }
    let (host, port) =
        target.rsplit_once(':').ok_or_else(|| format!("{target}: expected HOST:PORT"))?;
    let port = port.parse().map_err(|_| format!("{target}: {port} is not a port"))?;
    let hosts = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
    let ip =
        lookup(&hosts, host).ok_or_else(|| format!("{host}: not an address, not in /etc/hosts"))?;
    Ok(SocketAddr::new(ip, port))
}

fn lookup(hosts: &str, name: &str) -> Option<IpAddr> {
    if name == "localhost" {
        return Some(IpAddr::from([127, 0, 0, 1]));
    }
    hosts.lines().find_map(|line| {
        let mut words = line.split('#').next()?.split_whitespace();
        let ip: IpAddr = words.next()?.parse().ok()?;
        words.any(|word| word == name).then_some(ip)
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn hosts_lines_hold_an_address_and_names() {
        let hosts = "127.0.0.1 localhost\n# 1.1.1.1 web\n10.97.0.10\tweb.demo.svc web # service\n";
        assert_eq!(super::lookup(hosts, "web"), Some([10, 97, 0, 10].into()));
        assert_eq!(super::lookup(hosts, "other"), None);
    }
}
