//! Status as tables.

use std::fmt::Write as _;

use super::status::{NodeRow, Status};
use super::words::age;

/// The text of `longshore status`.
pub fn status(status: &Status, wide: bool) -> String {
    let mut out = node_line(&status.node, status);
    let since = |at: i64| if at == 0 { "-".to_owned() } else { age(status.now_unix_ms - at) };
    let mut pods = Table::new(
        &["NAMESPACE", "POD", "READY", "STATUS", "RESTARTS", "AGE", "IP"],
        wide.then_some("UID"),
    );
    for pod in &status.pods {
        let ready = format!("{}/{}", pod.containers_ready, pod.containers);
        let mut row = vec![
            pod.namespace.clone(),
            pod.name.clone(),
            ready,
            pod.status.clone(),
            pod.restarts.to_string(),
            since(pod.created_unix_ms),
            dash(&pod.ip),
        ];
        row.extend(wide.then(|| pod.uid.clone()));
        pods.row(row);
        if !pod.message.is_empty() && !pod.ready {
            pods.note(3, &pod.message);
        }
    }
    let mut services = Table::new(
        &["NAMESPACE", "SERVICE", "TYPE", "CLUSTER-IP", "PORTS", "ENDPOINTS"],
        wide.then_some("ADDRESSES"),
    );
    for service in &status.services {
        let endpoints = format!("{}/{}", service.endpoints_ready, service.endpoints);
        let mut row = vec![
            service.namespace.clone(),
            service.name.clone(),
            service.kind.clone(),
            dash(&service.cluster_ip),
            dash(&service.ports),
            endpoints,
        ];
        row.extend(wide.then(|| dash(&service.addresses.join(","))));
        services.row(row);
    }
    let mut policies = Table::new(&["NAMESPACE", "POLICY", "DIRECTIONS", "PODS"], None);
    for policy in &status.policies {
        policies.row(vec![
            policy.namespace.clone(),
            policy.name.clone(),
            policy.directions.clone(),
            policy.pods.to_string(),
        ]);
    }
    let mut none = Vec::new();
    for (table, name) in [(&pods, "Pods"), (&services, "Services"), (&policies, "NetworkPolicies")]
    {
        if table.rows.is_empty() {
            none.push(format!("No {}.", if name == "Pods" { "pods" } else { name }));
        } else {
            out.push('\n');
            table.write(&mut out);
        }
    }
    if !none.is_empty() {
        let _ = write!(out, "\n{}\n", none.join(" "));
    }
    section(&mut out, "PROBLEMS", status.problems.iter().cloned());
    let events = status.events.iter().map(|event| {
        let kind = if event.warning { "Warning" } else { "Normal" };
        let times = if event.count > 1 { format!(" (x{})", event.count) } else { String::new() };
        let ago = age(status.now_unix_ms - event.at_unix_ms);
        format!("{ago} ago  {kind} {} {}: {}{times}", event.reason, event.object, event.message)
    });
    section(&mut out, "LAST EVENTS", events);
    out
}

fn node_line(node: &NodeRow, status: &Status) -> String {
    let state = match (status.healthy, node.synced) {
        (true, _) => "ok",
        (false, true) => "DEGRADED",
        (false, false) => "NOT SYNCED (nothing is deleted yet)",
    };
    let up = age(status.now_unix_ms - node.started_unix_ms);
    let flows = node.flows.map_or_else(String::new, |flows| format!(", flows tracked: {flows}"));
    let mut out = format!(
        "Node {} ({}, {}): longshore {}, {}, up {up}{flows}, {state}\n",
        node.name,
        node.role,
        dash(&node.ips.join(",")),
        node.version,
        node.runtime
    );
    for reason in &node.degraded {
        let _ = writeln!(out, "  {reason}");
    }
    out
}

fn dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}

fn section(out: &mut String, title: &str, lines: impl Iterator<Item = String>) {
    let mut lines = lines.peekable();
    if lines.peek().is_some() {
        let _ = write!(out, "\n{title}\n");
    }
    for line in lines {
        let _ = writeln!(out, "  {}", printable(&line));
    }
}

/// Text of users' objects must not move the terminal's cursor.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Left-aligned columns, two spaces apart, no space at the end of a line.
struct Table {
    rows: Vec<Vec<String>>,
    head: Vec<String>,
    /// Lines below a row: row, column, text.
    notes: Vec<(usize, usize, String)>,
}

impl Table {
    fn new(head: &[&str], more: Option<&str>) -> Self {
        let head = head.iter().copied().chain(more).map(str::to_owned).collect();
        Self { rows: Vec::new(), head, notes: Vec::new() }
    }

    fn row(&mut self, row: Vec<String>) {
        self.rows.push(row.iter().map(|cell| printable(cell)).collect());
    }

    fn note(&mut self, column: usize, text: &str) {
        self.notes.push((self.rows.len() - 1, column, printable(text)));
    }

    fn write(&self, out: &mut String) {
        let all = || std::iter::once(&self.head).chain(&self.rows);
        let widths: Vec<usize> = (0..self.head.len())
            .map(|column| {
                all()
                    .filter_map(|row| row.get(column))
                    .map(|cell| cell.chars().count())
                    .max()
                    .unwrap_or(0)
            })
            .collect();
        for (index, row) in all().enumerate() {
            let cells: Vec<String> =
                row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
            let _ = writeln!(out, "{}", cells.join("  ").trim_end());
            for (_, column, text) in self.notes.iter().filter(|(row, _, _)| row + 1 == index) {
                let indent: usize = widths.iter().take(*column).map(|width| width + 2).sum();
                let _ = writeln!(out, "{:indent$}{text}", "");
            }
        }
    }
}
