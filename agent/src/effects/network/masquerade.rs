//! Pods reach the world under the node's address: one nftables table of our own.
//!
//! Pod to pod traffic never gets here: the hooks redirect it or it is routed inside the cluster.

use std::borrow::Cow;

use longshore_core::net::Masquerade;
use nftables::batch::Batch;
use nftables::expr::{
    Expression, Meta, MetaKey, NamedExpression, Payload, PayloadField, Prefix, SetItem,
};
use nftables::helper::{self, NftablesError};
use nftables::schema::{Chain, FlushObject, NfCmd, NfListObject, Rule, Table};
use nftables::stmt::{Match, NAT, NATFlag, Operator, Statement};
use nftables::types::{NfChainPolicy, NfChainType, NfFamily, NfHook};

use super::NetworkError;

/// Makes the table exactly what `plan` says, in one transaction.
///
/// # Errors
/// `nft` is missing or refused.
pub fn apply(plan: &Masquerade) -> Result<(), NetworkError> {
    let mut batch = Batch::new();
    let table = || NfListObject::Table(own_table(plan));
    batch.add(table());
    batch.add_cmd(NfCmd::Flush(FlushObject::Table(own_table(plan))));
    batch.add(NfListObject::Chain(Chain {
        family: NfFamily::IP,
        table: Cow::Owned(plan.table.clone()),
        name: CHAIN.into(),
        _type: Some(NfChainType::NAT),
        hook: Some(NfHook::Postrouting),
        // srcnat: where other tools expect masquerading (B50).
        prio: Some(100),
        policy: Some(NfChainPolicy::Accept),
        ..Chain::default()
    }));
    batch.add(NfListObject::Rule(Rule {
        family: NfFamily::IP,
        table: Cow::Owned(plan.table.clone()),
        chain: CHAIN.into(),
        expr: Cow::Owned(statements(plan)),
        comment: Some("pods to the world".into()),
        ..Rule::default()
    }));
    run(plan, &batch.to_nftables())
}

/// Removes the table; one that is not there is removed already.
///
/// # Errors
/// `nft` is missing or refused.
pub fn remove(plan: &Masquerade) -> Result<(), NetworkError> {
    let mut batch = Batch::new();
    // Adding first makes the deletion valid whether or not the table is there.
    batch.add(NfListObject::Table(own_table(plan)));
    batch.delete(NfListObject::Table(own_table(plan)));
    run(plan, &batch.to_nftables())
}

const CHAIN: &str = "masquerade";

fn own_table(plan: &Masquerade) -> Table<'static> {
    Table { family: NfFamily::IP, name: Cow::Owned(plan.table.clone()), handle: None }
}

/// `ip saddr <pods> ip daddr != { <cluster networks> } oifname != "ls*" masquerade fully-random`: one
/// look-up, however many nodes there are.
fn statements(plan: &Masquerade) -> Vec<Statement<'static>> {
    let cluster = plan.not_to.iter().map(|cidr| SetItem::Element(prefix(cidr))).collect();
    let cluster = Expression::Named(NamedExpression::Set(cluster));
    let mut all = vec![matches("saddr", Operator::EQ, prefix(&plan.from))];
    all.push(matches("daddr", Operator::NEQ, cluster));
    all.push(Statement::Match(Match {
        left: Expression::Named(NamedExpression::Meta(Meta { key: MetaKey::Oifname })),
        right: Expression::String(format!("{}*", plan.not_out).into()),
        op: Operator::NEQ,
    }));
    let flags = plan.fully_random.then(|| [NATFlag::FullyRandom].into_iter().collect());
    all.push(Statement::Masquerade(Some(NAT { addr: None, family: None, port: None, flags })));
    all
}

fn matches(field: &'static str, op: Operator, right: Expression<'static>) -> Statement<'static> {
    Statement::Match(Match {
        left: Expression::Named(NamedExpression::Payload(Payload::PayloadField(PayloadField {
            protocol: "ip".into(),
            field: field.into(),
        }))),
        right,
        op,
    })
}

fn prefix(cidr: &ipnet::IpNet) -> Expression<'static> {
    Expression::Named(NamedExpression::Prefix(Prefix {
        addr: Box::new(Expression::String(cidr.network().to_string().into())),
        len: u32::from(cidr.prefix_len()),
    }))
}

fn run(plan: &Masquerade, ruleset: &nftables::schema::Nftables<'_>) -> Result<(), NetworkError> {
    helper::apply_ruleset(ruleset).map_err(|error| {
        let detail = match error {
            NftablesError::NftFailed { stderr, .. } => stderr.trim().to_owned(),
            other => other.to_string(),
        };
        NetworkError::Nft { table: plan.table.clone(), detail }
    })
}
