//! The one text of an image: for `longshore maps dump`, golden tests and bug reports.
//!
//! Two daemons with the same World print the same text (I15): interfaces, slab positions and
//! generations are not in [`render`]. [`kernel_text`] prints the rows as they are, for debugging.

use std::collections::BTreeSet;
use std::fmt::{self, Write as _};
use std::net::SocketAddr;

use longshore_abi::{self as abi, policy, service};

use super::{Endpoint, Frontend, Group, Image, KernelRows, Protocol, ServiceEntry, View, rows};
use crate::model::ObjectKey;

impl fmt::Display for Frontend {
    /// `tcp/10.96.0.10:80`, with the view when it is not the ClusterIP.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.proto, SocketAddr::new(self.addr, self.port))?;
        match self.view {
            View::Internal => Ok(()),
            View::External => f.write_str(" external"),
            View::NodePort => f.write_str(" nodeport"),
        }
    }
}

/// The logical image: one section for each kind, sorted; `-` is none.
pub fn render(image: &Image) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write_image(&mut out, image);
    out
}

fn write_image(out: &mut String, image: &Image) -> fmt::Result {
    writeln!(out, "services {}", image.services.len())?;
    for (frontend, entry) in &image.services {
        write_service(out, frontend, entry)?;
    }
    writeln!(out, "endpoints {}", image.endpoints.len())?;
    for (ip, endpoint) in &image.endpoints {
        write_endpoint(out, &ip.to_string(), endpoint)?;
    }
    writeln!(out, "cidrs {}", image.cidrs.len())?;
    for (net, class) in &image.cidrs {
        writeln!(out, "  {:<20} {class}", net.to_string())?;
    }
    writeln!(out, "groups {}", image.groups.len())?;
    for (id, group) in &image.groups {
        write_group(out, *id, group)?;
    }
    Ok(())
}

fn write_service(out: &mut String, frontend: &Frontend, entry: &ServiceEntry) -> fmt::Result {
    let mut name = entry.service.to_string();
    if !entry.port_name.is_empty() {
        let _ = write!(name, ":{}", entry.port_name);
    }
    write!(out, "  {:<28} {name}", frontend.to_string())?;
    if entry.local_only {
        out.push_str("  local-only");
    }
    if let Some(seconds) = entry.affinity_s {
        write!(out, "  affinity {seconds}s")?;
    }
    if entry.backends.is_empty() {
        out.push_str("  refused: no endpoints");
    }
    out.push('\n');
    for backend in &entry.backends {
        let place = if backend.local { "local" } else { "remote" };
        writeln!(out, "    {} {place}", SocketAddr::new(backend.addr, backend.port))?;
    }
    Ok(())
}

fn write_endpoint(out: &mut String, ip: &str, endpoint: &Endpoint) -> fmt::Result {
    let name = endpoint.pod.as_ref().map_or("(node)".to_owned(), ObjectKey::to_string);
    let place = match (&endpoint.pod, &endpoint.local) {
        (None, _) => "node",
        (_, Some(_)) => "local",
        (_, None) => "remote",
    };
    let door = if endpoint.open { "open" } else { "closed" };
    let group = |id: Option<u64>| id.map_or("-".to_owned(), |id| format!("{id:016x}"));
    let (ingress, egress) = (group(endpoint.ingress), group(endpoint.egress));
    write!(out, "  {ip:<20} {name:<32} {place:<6} {door:<6} ")?;
    writeln!(out, "in {ingress:<16} out {egress:<16} {}", endpoint.class)
}

fn write_group(out: &mut String, id: u64, group: &Group) -> fmt::Result {
    writeln!(out, "  {id:016x} of {}", names(&group.policies))?;
    for (ports, rule) in &group.rules {
        write!(out, "    {ports} peers")?;
        if rule.any_peer {
            out.push_str(" *");
        }
        for peer in &rule.peers {
            write!(out, " {peer}")?;
        }
        writeln!(out, "  of {}", names(&rule.policies))?;
    }
    Ok(())
}

fn names(keys: &BTreeSet<ObjectKey>) -> String {
    let names: Vec<String> = keys.iter().map(ObjectKey::to_string).collect();
    if names.is_empty() { "-".to_owned() } else { names.join(",") }
}

/// A service key in words, also one that no Frontend has.
pub(super) fn frontend_of(key: &abi::ServiceKey) -> String {
    let at = SocketAddr::new(rows::ip_of(key.addr), u16::from_be(key.port));
    let proto = protocol(key.proto);
    match key.view {
        0 => format!("{proto}/{at}"),
        view => format!("{proto}/{at} view {view}"),
    }
}

fn protocol(number: u8) -> String {
    [Protocol::Tcp, Protocol::Udp, Protocol::Sctp]
        .into_iter()
        .find(|known| known.number() == number)
        .map_or(format!("proto-{number}"), |known| known.to_string())
}

/// All rows as they are, in key order.
pub fn kernel_text(rows: &KernelRows) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write_services(&mut out, rows).and_then(|()| write_policy(&mut out, rows));
    out
}

fn write_services(out: &mut String, rows: &KernelRows) -> fmt::Result {
    writeln!(out, "services {}", rows.services.len())?;
    let mut live = 0;
    for (key, row) in &rows.services {
        write!(out, "  {:<28} service {} ", frontend_of(key), row.service)?;
        write!(out, "generation {} base {} count {} ", row.generation, row.base, row.count)?;
        write!(out, "local {} affinity {}s", row.count_local, row.affinity_s)?;
        let flags = [
            (service::FLAG_LOCAL_ONLY, "local-only"),
            (service::FLAG_REMOTE_EXISTS, "remote-exists"),
        ];
        write_flags(out, row.flags, &flags)?;
        out.push('\n');
        for index in row.base..row.base.saturating_add(u32::from(row.count)) {
            let Some(slot) = rows.backends.get(&index) else {
                writeln!(out, "    {index} EMPTY")?;
                continue;
            };
            live += 1;
            let at = SocketAddr::new(rows::ip_of(slot.addr), u16::from_be(slot.port));
            write!(out, "    {index} {at}")?;
            if (slot.service, slot.generation) != (row.service, row.generation) {
                write!(out, " STALE: service {} generation {}", slot.service, slot.generation)?;
            }
            out.push('\n');
        }
    }
    writeln!(out, "backends {} of which in use {live}", rows.backends.len())
}

fn write_policy(out: &mut String, rows: &KernelRows) -> fmt::Result {
    writeln!(out, "endpoints {}", rows.endpoints.len())?;
    for (addr, row) in &rows.endpoints {
        write!(out, "  {:<20} class {:016x} ", rows::ip_of(*addr).to_string(), row.class)?;
        write!(out, "in {:016x} out {:016x} ", row.ingress, row.egress)?;
        write!(out, "stamp {:016x} ifindex {}", row.stamp, row.ifindex)?;
        let flags = [
            (policy::LOCAL, "local"),
            (policy::NODE, "node"),
            (policy::OPEN, "open"),
            (policy::ISOLATED_INGRESS, "isolated-ingress"),
            (policy::ISOLATED_EGRESS, "isolated-egress"),
        ];
        write_flags(out, row.flags, &flags)?;
        out.push('\n');
    }
    writeln!(out, "cidrs {}", rows.cidrs.len())?;
    for (key, class) in &rows.cidrs {
        let net = rows::cidr_of(*key).map_or(format!("{key:?}"), |net| net.to_string());
        writeln!(out, "  {net:<20} class {class:016x}")?;
    }
    writeln!(out, "groups {}", rows.groups.len())?;
    for (id, row) in &rows.groups {
        write!(out, "  {id:016x} any-peer {} ", mask(&row.any_peer))?;
        write!(out, "any-port {}", mask(&row.any_port))?;
        let flags =
            [(policy::GROUP_HAS_CIDRS, "has-cidrs"), (policy::GROUP_HAS_RANGES, "has-ranges")];
        write_flags(out, row.flags, &flags)?;
        out.push('\n');
    }
    writeln!(out, "peers {}", rows.peers.len())?;
    for (key, row) in &rows.peers {
        writeln!(out, "  {:016x} class {:016x} {}", key.group, key.class, mask(row))?;
    }
    writeln!(out, "ports {}", rows.ports.len())?;
    for (key, row) in &rows.ports {
        let (proto, port) = (protocol(key.proto), u16::from_be(key.port));
        writeln!(out, "  {:016x} {proto}/{port} {}", key.group, mask(row))?;
    }
    writeln!(out, "ranges {}", rows.ranges.len())?;
    for (key, row) in &rows.ranges {
        let (group, port) = (u64::from_be_bytes(key.group), u16::from_be_bytes(key.port));
        let bits = key.prefix_len.saturating_sub(abi::RangeKey::BITS_PROTO);
        writeln!(out, "  {group:016x} {}/{port} bits {bits} {}", protocol(key.proto), mask(row))?;
    }
    Ok(())
}

/// Names of the set flags; bits without a name as a number.
fn write_flags(out: &mut String, flags: u32, known: &[(u32, &str)]) -> fmt::Result {
    let mut rest = flags;
    for (bit, name) in known {
        if flags & bit != 0 {
            write!(out, " {name}")?;
            rest &= !bit;
        }
    }
    if rest != 0 { write!(out, " flags {rest:#x}") } else { Ok(()) }
}

/// Numbers of the set bits.
fn mask(mask: &abi::Mask) -> String {
    let set = (0..abi::Mask::BITS).filter(|bit| mask.bits[bit / 64] >> (bit % 64) & 1 != 0);
    let bits: Vec<String> = set.map(|bit| bit.to_string()).collect();
    format!("{{{}}}", bits.join(","))
}

#[cfg(test)]
mod tests {
    use super::super::{
        Backend, CidrClass, Class, LocalInterface, PeerTerm, Physical, PortSet, PortTerm, Rule,
    };
    use super::*;
    use crate::model::Time;

    fn image(ifindex: u32) -> Image {
        let web = PeerTerm::Pods {
            namespaces: "name=a".into(),
            pods: "app=web".into(),
            named_port: None,
        };
        let net = |text: &str| text.parse().unwrap();
        let block =
            PeerTerm::Block { cidr: net("10.0.0.0/8"), except: [net("10.1.0.0/16")].into() };
        let policy = ObjectKey::new("a", "allow");
        let mut group = Group { policies: [policy.clone()].into(), ..Group::default() };
        let ports = [(80, 80), (8000, 8999)].map(|(first, last)| PortTerm {
            proto: Protocol::Tcp,
            first,
            last,
        });
        let peers = [web.clone(), block.clone()].into();
        let rule = Rule { any_peer: false, peers, policies: [policy].into() };
        group.rules.insert(PortSet::These(ports.into()), rule);
        let mut image = Image::default();
        let pod = Endpoint {
            pod: Some(ObjectKey::new("a", "web-0")),
            class: Class { terms: [web].into() },
            local: Some(LocalInterface { ifindex, mac: [2; 6] }),
            open: true,
            ingress: Some(group.id()),
            egress: None,
        };
        let node = Endpoint {
            pod: None,
            class: Class::default(),
            local: None,
            open: true,
            ingress: None,
            egress: None,
        };
        image.endpoints.insert([10, 0, 0, 2].into(), pod);
        image.endpoints.insert([192, 168, 0, 1].into(), node);
        image.cidrs.insert(net("10.0.0.0/8"), CidrClass { terms: [block].into() });
        image.cidrs.insert(net("10.1.0.0/16"), CidrClass::default());
        image.groups.insert(group.id(), group);
        let backend = |local, last| Backend { local, addr: [10, 0, 0, last].into(), port: 8080 };
        let at = |last| Frontend {
            addr: [10, 96, 0, last].into(),
            port: 80,
            proto: Protocol::Tcp,
            view: View::Internal,
        };
        let entry = ServiceEntry {
            service: ObjectKey::new("a", "web"),
            port_name: "http".into(),
            backends: [backend(false, 1), backend(true, 2)].into(),
            local_only: true,
            affinity_s: None,
        };
        let none = ServiceEntry { backends: BTreeSet::new(), local_only: false, ..entry.clone() };
        image.services.insert(at(1), entry);
        image.services.insert(at(2), none);
        image
    }

    #[test]
    fn i15_the_text_of_an_image_is_canonical_and_names_no_interface() {
        let text = render(&image(7));
        assert_eq!(text, render(&image(8)));
        let id = *image(7).groups.keys().next().unwrap();
        let want = format!(
            r#"services 2
  tcp/10.96.0.1:80             a/web:http  local-only
    10.0.0.2:8080 local
    10.0.0.1:8080 remote
  tcp/10.96.0.2:80             a/web:http  refused: no endpoints
endpoints 2
  10.0.0.2             a/web-0                          local  open   in {id:016x} out -                class{{pods("name=a" "app=web")}}
  192.168.0.1          (node)                           node   open   in -                out -                class{{}}
cidrs 2
  10.0.0.0/8           cidr{{block(10.0.0.0/8 except 10.1.0.0/16)}}
  10.1.0.0/16          cidr{{}}
groups 1
  {id:016x} of a/allow
    tcp/80,tcp/8000-8999 peers pods("name=a" "app=web") block(10.0.0.0/8 except 10.1.0.0/16)  of a/allow
"#
        );
        assert_eq!(text, want);
    }

    #[test]
    fn rows_print_as_they_are() {
        let mut rows = KernelRows::default();
        let mut physical = Physical::adopt(&rows);
        for op in physical.plan_full(&image(7), Time::from_unix_ms(0)).unwrap() {
            rows.apply(&op);
        }
        let text = kernel_text(&rows);
        for line in [
            "generation 1 base 0 count 2 local 1 affinity 0s local-only\n    0 10.0.0.2:8080\n",
            "ifindex 7 local open isolated-ingress\n",
            "  10.1.0.0/16          class ",
            " any-peer {} any-port {} has-cidrs has-ranges\n",
            " tcp/80 {0}\n",
            "backends 2 of which in use 2\n",
        ] {
            assert!(text.contains(line), "{line:?} is not in\n{text}");
        }
        rows.backends.get_mut(&1).unwrap().generation = 9;
        assert!(kernel_text(&rows).contains("    1 10.0.0.1:8080 STALE: service 1 generation 9\n"));
        assert_eq!(super::super::physical::inconsistencies(&rows).len(), 1);
    }
}
