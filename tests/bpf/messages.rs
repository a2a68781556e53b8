//! `--bpf-log`: the programs' own messages reach the daemon's log.

use std::io::Write;
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use longshore::dataplane::Dataplane;
use longshore::supervise::Supervisor;
use longshore_abi::{Addr, Backend, IPPROTO_TCP, ServiceKey, ServiceValue};
use longshore_core::image::MapOp;

use crate::lab;

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn e11_messages_of_the_programs_reach_the_log() {
    lab::run("messages::e11_messages_of_the_programs_reach_the_log", |lab| {
        let lines = Lines::default();
        let writer = lines.clone();
        tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false).init();
        let mut config = lab.config.clone();
        config.bpf_log = true;
        let dataplane = Dataplane::open(&config).unwrap();
        let vip = [10, 96, 0, 10];
        let addr = Addr::v4(vip);
        let key = ServiceKey { addr, port: 80_u16.to_be(), proto: IPPROTO_TCP, view: 0 };
        let row = ServiceValue { generation: 1, service: 1, count: 1, ..ServiceValue::default() };
        let backend = Backend {
            addr: Addr::v4([127, 0, 0, 1]),
            port: 9_u16.to_be(),
            service: 1,
            generation: 1,
            ..Backend::default()
        };
        let ops = [MapOp::PutBackend(0, backend), MapOp::PutService(key, row)];
        dataplane.apply(&ops).unwrap();
        lab::ip("link add veth1 type veth peer name eth0");
        dataplane.attach_pod("veth1").unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let supervisor = Supervisor::default();
            dataplane.spawn_log(&supervisor.scope()).unwrap();
            assert!(TcpStream::connect((std::net::Ipv4Addr::from(vip), 80)).is_err());
            // The new interface's own first packets are IPv6.
            lab::ip("link set veth1 up");
            lab::ip("link set eth0 up");
            let expected = ["service 10.96.0.10:80 > 127.0.0.1:9", "drop ipv6"];
            for _ in 0..100 {
                tokio::time::sleep(Duration::from_millis(50)).await;
                let log = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
                if expected.iter().all(|line| log.contains(line)) {
                    println!("{log}");
                    return;
                }
            }
            let log = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
            panic!("the log lacks some of {expected:?}:\n{log}");
        });
    });
}
