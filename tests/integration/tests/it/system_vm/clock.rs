//! A host whose clock is set, far ahead and far back: times of VMs are counted on a clock that
//! nobody sets.

use std::time::Duration;

use super::{Host, text};

/// Of the VM that is to be removed meanwhile; longer than all that is done before it.
const SHORT: Duration = Duration::from_secs(90);

#[test]
fn a_step_of_the_clock_removes_nothing_and_moves_no_end() {
    let Some(mut host) = Host::boot() else {
        return;
    };
    host.start_daemon();
    host.create("endless", "");
    let long = host.create("long", "--ttl 2h");
    let begun = uptime(&mut host);
    host.create("short", &format!("--ttl {}s", SHORT.as_secs()));
    let pid = |host: &mut Host| host.vms()["long"]["pid"].clone();

    for step in ["+1 year", "-1 year", "-1 year", "+1 year"] {
        let date = host.run(&format!("date -u -s \"$(date -u -d '{step}')\" +%F"));
        // Longer than any interval at which the daemon looks at its clocks within a minute's time.
        std::thread::sleep(Duration::from_secs(3));
        let vms = host.vms();
        let left = SHORT.as_secs_f64() - (uptime(&mut host) - begun);
        println!("  it is {} with {left:.0} s to go", date.trim());
        assert!(
            left > 0.0,
            "this machine is too slow for a time of {SHORT:?}"
        );
        for name in ["endless", "long", "short"] {
            assert_eq!(vms[name]["state"], "running", "{name} after {step}");
        }
        assert_eq!(vms["long"]["expires_at"], long["expires_at"]);
        assert_eq!(vms["long"]["pid"], long["pid"]);
    }
    // A daemon that starts under another clock does not believe it either.
    host.run("date -u -s \"$(date -u -d '+1 year')\"");
    let daemon = host.daemon_pid();
    host.run(&format!("kill -9 {}", daemon.trim()));
    host.start_daemon();
    assert_eq!(pid(&mut host), long["pid"]);
    assert_eq!(host.vms()["long"]["expires_at"], long["expires_at"]);
    host.run("date -u -s \"$(date -u -d '-3 years')\"");

    host.wait_for("the end of the short one", |host| {
        (!host.vms().contains_key("short")).then_some(())
    });
    let lived = uptime(&mut host) - begun;
    host.say(&format!("a VM of {SHORT:?} lived {lived:.1} s"));
    assert!(lived >= SHORT.as_secs_f64(), "{lived}");
    let log = host.run(&format!(
        "grep -c 'its time to live is over' {}",
        super::LOG
    ));
    assert_eq!(text(&log.trim().into()), "1");
    let vms = host.vms();
    assert_eq!(vms.keys().collect::<Vec<_>>(), ["endless", "long"]);
    assert_eq!(vms["long"]["pid"], long["pid"]);
    host.say("done");
}

/// The kernel's, which no step of the clock moves.
fn uptime(host: &mut Host) -> f64 {
    let text = host.run("cat /proc/uptime");
    let seconds = text.split(' ').next().expect("a number");
    seconds.parse().expect("a number")
}
