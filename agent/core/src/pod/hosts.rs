//! The pod's name and its /etc/hosts (A199, A200).

use std::net::IpAddr;

use k8s_openapi::api::core::v1::PodSpec;

use super::Input;

/// Host name and, for a pod with a subdomain, its full name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Names {
    pub hostname: String,
    pub fqdn: Option<String>,
    /// What the kernel gets: the full name with `setHostnameAsFQDN`.
    pub kernel: String,
}

/// Longest name that the kernel takes.
const LONGEST_KERNEL_NAME: usize = 64;

/// A200. `Err`: the full name does not fit where it is asked for; the sandbox is not made.
pub fn names(input: &Input<'_>, spec: &PodSpec) -> Result<Names, String> {
    let name = spec.hostname.as_deref().filter(|h| !h.is_empty()).unwrap_or(&input.key.name);
    let mut end = name.len().min(63);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    let hostname = name[..end].trim_end_matches(['-', '.']).to_owned();
    let fqdn = spec.subdomain.as_deref().filter(|s| !s.is_empty()).map(|subdomain| {
        let (namespace, domain) = (&input.key.namespace, &input.node.cluster_domain);
        format!("{hostname}.{subdomain}.{namespace}.svc.{domain}")
    });
    let kernel = match (&fqdn, spec.set_hostname_as_fqdn) {
        (Some(fqdn), Some(true)) if fqdn.len() > LONGEST_KERNEL_NAME => {
            return Err(format!(
                "setHostnameAsFQDN: {fqdn:?} is longer than {LONGEST_KERNEL_NAME} characters"
            ));
        }
        (Some(fqdn), Some(true)) => fqdn.clone(),
        _ => hostname.clone(),
    };
    Ok(Names { hostname, fqdn, kernel })
}

const HEAD: &str = "# Kubernetes-managed hosts file.\n";
const HEAD_HOST_NETWORK: &str = "# Kubernetes-managed hosts file (host network).\n";
const LOOPBACK: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
    fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n";

/// The text of the file (A199).
pub fn file(input: &Input<'_>, spec: &PodSpec, names: &Names, ips: &[IpAddr]) -> String {
    let mut text = String::new();
    if spec.host_network.unwrap_or(false) {
        text.push_str(HEAD_HOST_NETWORK);
        text.push_str(&input.node.hosts_file);
        if !text.ends_with('\n') {
            text.push('\n');
        }
    } else {
        text.push_str(HEAD);
        text.push_str(LOOPBACK);
        for ip in ips {
            match &names.fqdn {
                Some(fqdn) => text.push_str(&format!("{ip}\t{fqdn}\t{}\n", names.hostname)),
                None => text.push_str(&format!("{ip}\t{}\n", names.hostname)),
            }
        }
    }
    let aliases: Vec<_> = spec
        .host_aliases
        .iter()
        .flatten()
        // A name with a line break would be a line of its own (F65).
        .filter(|alias| alias.ip.parse::<IpAddr>().is_ok())
        .map(|alias| (alias.ip.as_str(), words(alias.hostnames.as_deref().unwrap_or_default())))
        .filter(|(_, names)| !names.is_empty())
        .collect();
    if !aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
        for (ip, names) in aliases {
            text.push_str(&format!("{ip}\t{}\n", names.join("\t")));
        }
    }
    if !input.extra_hosts.is_empty() {
        text.push_str("\n# Services.\n");
        for (ip, names) in input.extra_hosts {
            text.push_str(&format!("{ip}\t{}\n", words(names).join("\t")));
        }
    }
    text
}

/// Names that are one word.
fn words(names: &[String]) -> Vec<&str> {
    let plain =
        |name: &&str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic() && b != b'#');
    names.iter().map(String::as_str).filter(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::testing::Case;

    fn check(case: &Case) -> (Result<Names, String>, String) {
        let spec = case.pod.spec.as_ref().unwrap();
        let names = names(&case.input(), spec);
        let text = names
            .as_ref()
            .map(|names| file(&case.input(), spec, names, &["10.0.0.5".parse().unwrap()]))
            .unwrap_or_default();
        (names, text)
    }

    #[test]
    fn a199_the_file_has_loopback_the_pod_its_aliases_and_service_names() {
        let mut case = Case::spec(
            "{hostname: h, subdomain: s, containers: [],
              hostAliases: [{ip: 192.0.2.9, hostnames: [a, b, \"x\\ny\"]}, {ip: nope, hostnames: [c]}]}",
        );
        case.extra_hosts =
            vec![("10.96.0.7".parse().unwrap(), vec!["db".into(), "db.default".into()])];
        let text = check(&case).1;
        assert!(text.starts_with("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n"));
        let end = "10.0.0.5\th.s.default.svc.cluster.local\th\n\n# Entries added by HostAliases.\n\
            192.0.2.9\ta\tb\n\n# Services.\n10.96.0.7\tdb\tdb.default\n";
        assert!(text.ends_with(end), "{text}");
    }

    #[test]
    fn a199_host_network_pods_get_the_nodes_file() {
        let text = check(&Case::spec("{hostNetwork: true, containers: []}")).1;
        assert_eq!(
            text,
            "# Kubernetes-managed hosts file (host network).\n127.0.0.1 localhost\n192.0.2.1 node-a\n"
        );
    }

    #[test]
    fn a200_hostnames_are_cut_and_full_names_fit_or_fail() {
        let name = |spec: &str| check(&Case::spec(spec)).0;
        assert_eq!(name("{containers: []}").unwrap().kernel, "web");
        let long = format!("{{hostname: {}, containers: []}}", "a".repeat(80));
        assert_eq!(name(&long).unwrap().hostname.len(), 63);
        let full = name("{subdomain: s, setHostnameAsFQDN: true, containers: []}").unwrap();
        assert_eq!(full.kernel, "web.s.default.svc.cluster.local");
        let long =
            format!("{{subdomain: {}, setHostnameAsFQDN: true, containers: []}}", "s".repeat(60));
        assert!(name(&long).is_err());
    }
}
