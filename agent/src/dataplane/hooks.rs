//! Hooks of pod interfaces: clsact filters with a fixed priority and handle, so that a restart
//! replaces them in place. A filter holds its program: it needs no pin, and goes with its veth.
//!
//! Not tcx: creating a tcx link waits for an RCU grace period under RTNL,
//! 13 ms for each pod hook, and pods that start together wait for one another.

use aya::Ebpf;
use aya::programs::tc::{self, NlOptions, SchedClassifierLink, TcError, TcHandle};
use aya::programs::{NetworkInterface, ProgramError, SchedClassifier, TcAttach, TcAttachType};

use super::DataplaneError;
use super::object::{POD_IN, POD_OUT};

const PRIORITY: u16 = 1;
const HANDLE: TcHandle = TcHandle::new(0, 1);

/// Puts both hooks on `ifname`, an interface of the calling thread's network namespace, or
/// replaces those that are there.
///
/// # Errors
/// The interface is gone, or the kernel's.
pub fn attach(ebpf: &mut Ebpf, ifname: &str) -> Result<(), DataplaneError> {
    let interface = std::ffi::CString::new(ifname)
        .map_err(|error| DataplaneError::qdisc(ifname, error.into()))?;
    match tc::qdisc_add_clsact(interface.as_c_str()) {
        Ok(()) => {}
        Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(libc::EEXIST) => {}
        Err(source) => return Err(DataplaneError::qdisc(ifname, source)),
    }
    // What the pod receives first: from the moment it can send, replies are judged.
    for (name, side) in [(POD_IN, TcAttachType::Egress), (POD_OUT, TcAttachType::Ingress)] {
        let program: &mut SchedClassifier = ebpf
            .program_mut(name)
            .ok_or_else(|| DataplaneError::NoProgram(name.to_owned()))?
            .try_into()
            .map_err(|error| DataplaneError::program(name, error))?;
        attach_one(program, &interface, side)
            .map_err(|error| DataplaneError::program(name, error))?;
    }
    Ok(())
}

fn attach_one(
    program: &mut SchedClassifier,
    interface: &std::ffi::CStr,
    side: TcAttachType,
) -> Result<(), ProgramError> {
    let options = NlOptions { priority: PRIORITY, handle: HANDLE, classid: None };
    let attach = TcAttach::Netlink { parent: side.into(), options };
    let id = match program.attach(NetworkInterface::from(interface), attach) {
        Err(error) if errno(&error) == Some(libc::EEXIST) => {
            let old = SchedClassifierLink::attached(
                NetworkInterface::from(interface),
                side.into(),
                PRIORITY,
                HANDLE,
                None,
            )?;
            program.attach_to_link(old)?
        }
        other => other?,
    };
    // Dropping a netlink link detaches it; the filter must outlive the daemon.
    std::mem::forget(program.take_link(id)?);
    Ok(())
}

fn errno(error: &ProgramError) -> Option<i32> {
    match error {
        ProgramError::TcError(TcError::NetlinkError(error)) | ProgramError::NetlinkError(error) => {
            error.raw_os_error()
        }
        _ => None,
    }
}
