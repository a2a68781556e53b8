//! bpf(2) where aya has nothing: rows of any map by their `longshore-abi` types, and batches.
//!
//! aya's typed maps want its `Pod` trait on keys and values, which the abi crate cannot have
//! (it imports nothing), and read one element per system call.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;

use aya_log::EbpfLogger;
use longshore_abi as abi;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Types whose bytes are a map's bytes.
///
/// # Safety
/// `repr(C)` or primitive, no padding, and every bit pattern is a value.
pub unsafe trait Row: Copy + Default + 'static {}

macro_rules! rows {
    ($($row:ty),+ $(,)?) => {
        $(
            // SAFETY: repr(C) of integers with explicit padding; abi asserts the size.
            unsafe impl Row for $row {}
        )+
    };
}

rows!(
    u32,
    u64,
    abi::Addr,
    abi::CidrKey,
    abi::ServiceKey,
    abi::ServiceValue,
    abi::Backend,
    abi::Endpoint,
    abi::GroupHeader,
    abi::PeerKey,
    abi::PortKey,
    abi::RangeKey,
    abi::Mask,
    abi::FlowKey,
    abi::FlowValue,
    abi::FragmentKey,
    abi::FragmentValue,
);

const BPF_MAP_LOOKUP_ELEM: libc::c_int = 1;
const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
const BPF_MAP_DELETE_ELEM: libc::c_int = 3;
const BPF_MAP_LOOKUP_AND_DELETE_ELEM: libc::c_int = 21;
const BPF_MAP_LOOKUP_BATCH: libc::c_int = 24;

/// Only if the key is not there.
const BPF_NOEXIST: u64 = 1;

/// The part of `union bpf_attr` of the element commands (include/uapi/linux/bpf.h).
#[repr(C)]
struct ElementAttr {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// The part of `union bpf_attr` of the batch commands.
#[repr(C)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

fn bpf<A>(command: libc::c_int, attr: &mut A) -> io::Result<()> {
    // SAFETY: `attr` is a live prefix of `union bpf_attr` of the size that is passed, and the
    // callers' pointers in it are to live buffers of the map's sizes.
    let ret =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<A>()) };
    if ret < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn address<T>(value: &T) -> u64 {
    std::ptr::from_ref(value) as u64
}

/// A map of rows `K` → `V`.
pub struct Table<K, V> {
    fd: OwnedFd,
    row: PhantomData<fn(K) -> V>,
}

/// Elements per batch at first; a hash bucket that does not fit makes it double.
const BATCH: usize = 4096;

impl<K: Row, V: Row> Table<K, V> {
    /// `fd` is of a map with these sizes.
    ///
    /// # Errors
    /// The kernel's sizes are others: reading it would overflow our buffers.
    pub fn new(fd: OwnedFd, key_size: u32, value_size: u32) -> io::Result<Self> {
        if key_size as usize != size_of::<K>() || value_size as usize != size_of::<V>() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!(
                    "the map has keys of {key_size} and values of {value_size} bytes, not {} and {}",
                    size_of::<K>(),
                    size_of::<V>()
                ),
            ));
        }
        Ok(Self { fd, row: PhantomData })
    }

    fn element(&self, key: &K, value: u64) -> ElementAttr {
        ElementAttr { map_fd: self.raw(), pad: 0, key: address(key), value, flags: 0 }
    }

    fn raw(&self) -> u32 {
        // An open descriptor is never negative.
        self.fd.as_raw_fd() as u32
    }

    /// Inserts or replaces, atomically for readers.
    ///
    /// # Errors
    /// `E2BIG`: the map is full (a trie: `ENOSPC`).
    pub fn put(&self, key: &K, value: &V) -> io::Result<()> {
        bpf(BPF_MAP_UPDATE_ELEM, &mut self.element(key, address(value)))
    }

    /// Inserts; whether the key was free.
    ///
    /// # Errors
    /// As for [`Table::put`].
    pub fn put_new(&self, key: &K, value: &V) -> io::Result<bool> {
        let mut element = self.element(key, address(value));
        element.flags = BPF_NOEXIST;
        match bpf(BPF_MAP_UPDATE_ELEM, &mut element) {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Removes, and tells the value that was removed. Hash maps only (Linux 5.14).
    ///
    /// # Errors
    /// Other than that it is not there.
    pub fn take(&self, key: &K) -> io::Result<Option<V>> {
        let mut value = V::default();
        let out = std::ptr::from_mut(&mut value) as u64;
        match bpf(BPF_MAP_LOOKUP_AND_DELETE_ELEM, &mut self.element(key, out)) {
            Ok(()) => Ok(Some(value)),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Removes; whether it was there.
    ///
    /// # Errors
    /// Other than that it was not there.
    pub fn delete(&self, key: &K) -> io::Result<bool> {
        match bpf(BPF_MAP_DELETE_ELEM, &mut self.element(key, 0)) {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// # Errors
    /// Other than that it is not there.
    pub fn get(&self, key: &K) -> io::Result<Option<V>> {
        let mut value = V::default();
        let out = std::ptr::from_mut(&mut value) as u64;
        match bpf(BPF_MAP_LOOKUP_ELEM, &mut self.element(key, out)) {
            Ok(()) => Ok(Some(value)),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All rows, in the map's own order.
    ///
    /// # Errors
    /// The kernel's.
    pub fn rows(&self) -> io::Result<Vec<(K, V)>> {
        let mut all = Vec::new();
        self.for_each(|key, value| all.push((key, value)))?;
        Ok(all)
    }

    /// Calls `look` with every row, read in batches. A row that changes meanwhile may be seen in
    /// its old or new form; one that is new may be missed.
    ///
    /// # Errors
    /// The kernel's.
    pub fn for_each(&self, mut look: impl FnMut(K, V)) -> io::Result<()> {
        let mut size = BATCH;
        // The kernel's cursor is a u32 or a key; none of ours is longer than a `FlowKey`.
        let (mut cursor, mut next) = ([0_u64; 8], [0_u64; 8]);
        let mut first = true;
        loop {
            let (mut keys, mut values) = (vec![K::default(); size], vec![V::default(); size]);
            let mut attr = BatchAttr {
                in_batch: if first { 0 } else { address(&cursor) },
                out_batch: std::ptr::from_mut(&mut next) as u64,
                keys: keys.as_mut_ptr() as u64,
                values: values.as_mut_ptr() as u64,
                count: size as u32,
                map_fd: self.raw(),
                elem_flags: 0,
                flags: 0,
            };
            let result = bpf(BPF_MAP_LOOKUP_BATCH, &mut attr);
            let errno = result.as_ref().err().and_then(io::Error::raw_os_error);
            match errno {
                None | Some(libc::ENOENT) => {
                    let count = attr.count as usize;
                    for (key, value) in keys.into_iter().zip(values).take(count) {
                        look(key, value);
                    }
                    if errno.is_some() {
                        return Ok(());
                    }
                    (cursor, first) = (next, false);
                }
                Some(libc::ENOSPC) if size < 1 << 20 => size *= 2,
                Some(_) => result?,
            }
        }
    }
}

/// Counters of a PERCPU_ARRAY of u64.
pub struct Counters {
    fd: OwnedFd,
    cpus: usize,
}

impl Counters {
    /// `cpus`: possible CPUs of the machine, as the kernel counts them.
    pub fn new(fd: OwnedFd, cpus: u32) -> Self {
        Self { fd, cpus: cpus as usize }
    }

    /// The sum over all CPUs.
    ///
    /// # Errors
    /// The kernel's.
    pub fn get(&self, index: u32) -> io::Result<u64> {
        let mut values = vec![0_u64; self.cpus];
        let mut attr = ElementAttr {
            map_fd: self.fd.as_raw_fd() as u32,
            pad: 0,
            key: address(&index),
            value: values.as_mut_ptr() as u64,
            flags: 0,
        };
        bpf(BPF_MAP_LOOKUP_ELEM, &mut attr)?;
        Ok(values.iter().sum())
    }
}

/// Waits for messages of the eBPF programs.
///
/// # Errors
/// epoll refuses the descriptor.
pub fn readable<T>(logger: EbpfLogger<T>) -> io::Result<AsyncFd<EbpfLogger<T>>> {
    // SAFETY: the logger owns its descriptor, and neither closes nor replaces it before its drop.
    let registered = unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) };
    registered.map_err(Into::into)
}

const SO_NETNS_COOKIE: libc::c_int = 71;

/// Cookie of the calling thread's network namespace, as `bpf_get_netns_cookie` tells it.
///
/// # Errors
/// The kernel is older than 5.14.
pub fn netns_cookie() -> io::Result<u64> {
    let socket = UnixDatagram::unbound()?;
    let mut cookie = 0_u64;
    let mut len = size_of::<u64>() as libc::socklen_t;
    // SAFETY: `cookie` and `len` are live, and `len` is the size of `cookie`.
    let ret = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            std::ptr::from_mut(&mut cookie).cast(),
            &mut len,
        )
    };
    if ret < 0 { Err(io::Error::last_os_error()) } else { Ok(cookie) }
}
