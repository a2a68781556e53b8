//! Answers the CNI shim: ADD, DEL, CHECK, GC, STATUS.
//!
//! ADD returns with the interface *closed*: the hooks are attached, and no endpoint row exists yet.
//! The pod's worker starts no container until the row is seen open (C16). The ledger of who owns
//! which address is written before an answer leaves, so that a crash forgets no address (F19).

pub mod conf;
pub mod ledger;
pub mod server;

use longshore_core::model::observed::Attachment;
use longshore_core::model::{ObjectKey, PodUid};

pub use conf::{Conf, ConfError};
pub use ledger::{Entry, Ledger, LedgerError};
pub use server::{Cni, CniConfig};

/// Who must know of a pod's interface: the World, and through it policy and Services.
pub trait AttachmentSink: Send + Sync {
    fn attached(&self, key: &ObjectKey, uid: &PodUid, attachment: &Attachment);
    fn detached(&self, uid: &PodUid, sandbox_id: &str);
}

/// The hooks of a pod's interface, as the dataplane attaches them.
pub trait Hooks: Send + Sync {
    /// Attaches both hooks to the host side `ifname`; without a row of its own the pod is closed.
    ///
    /// # Errors
    /// The text of what the kernel refused; the interface must not be brought up.
    fn attach(&self, ifname: &str) -> Result<(), String>;
}
