//! Certificates of clients that are not, or not any more, good.

use std::time::Duration;

use casemate_integration::certificates::{self, Authority, Leaf, Validity};
use casemate_integration::daemon::{Setup, eventually};
use casemate_integration::tls_client::{
    Client, alert, channel, client_config, handshake_kind, list,
};
use casemate_proto::v1;
use casemate_proto::v1::vm_service_client::VmServiceClient;
use rustix::process::Signal;
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{AlertDescription, HandshakeKind};
use tonic::Code;

use super::{name_file, serve_with, setup};

/// The daemon looks at its files every 10 s.
const NOTICED: Duration = Duration::from_secs(40);

const LISTENERS: [(&str, &str); 2] = [("grpc", "h2"), ("http", "http/1.1")];

/// Both listeners, for clients of `clients` that are not on `list`.
fn listening(root: &Authority, clients: &str, list: &str) -> Setup {
    let mut setup = setup();
    for (listener, _) in LISTENERS {
        serve_with(&mut setup, listener, &root.server());
        name_file(&mut setup, &format!("{listener}.client_ca_certs"), clients);
        name_file(&mut setup, &format!("{listener}.client_crl"), list);
    }
    setup
}

#[tokio::test]
async fn a_client_that_is_not_served_hears_why_from_tls() {
    let (root, clients) = (Authority::root("root"), Authority::root("clients"));
    let revoked = clients.client();
    let lists = clients.revocation_list(&[&revoked], Validity::ForYears);
    let daemon = listening(&root, &clients.certificate(), &lists).start();
    let of_no_use = clients.client_of(&[], Validity::Over);
    for (case, identity, wanted) in [
        ("none", None, Some(AlertDescription::CertificateRequired)),
        (
            "foreign",
            Some(root.client()),
            Some(AlertDescription::UnknownCA),
        ),
        (
            "expired",
            Some(of_no_use),
            Some(AlertDescription::CertificateExpired),
        ),
        (
            "revoked",
            Some(revoked),
            Some(AlertDescription::CertificateRevoked),
        ),
        ("good", Some(clients.client()), None),
    ] {
        let client = Client {
            trusted: &root,
            identity,
        };
        for (address, (_, protocol)) in [daemon.grpc, daemon.http].into_iter().zip(LISTENERS) {
            let heard = alert(address, &client, protocol).await;
            assert_eq!(heard, wanted, "{case} over {protocol}");
        }
        assert_eq!(
            list(&daemon, &client).await.is_ok(),
            wanted.is_none(),
            "{case}"
        );
    }
}

/// Of each authority of a chain there has to be a list, and one that is in force.
#[tokio::test]
async fn what_no_list_says_of_a_certificate_is_held_against_it() {
    let (root, clients) = (Authority::root("root"), Authority::root("clients"));
    let department = clients.intermediate("department");
    let chained = |leaf: Leaf| Leaf {
        certificate: leaf.certificate.clone() + &department.certificate(),
        ..leaf
    };
    let of = |authority: &Authority, validity| authority.revocation_list(&[], validity);
    let both = of(&clients, Validity::ForYears) + &of(&department, Validity::ForYears);
    let revoked_department = Leaf {
        serial: department.serial(),
        ..clients.client()
    };
    let without_department = clients.revocation_list(&[&revoked_department], Validity::ForYears);
    for (case, lists, wanted) in [
        ("all lists", both.clone(), None),
        (
            "none of the department",
            of(&clients, Validity::ForYears),
            Some(AlertDescription::UnknownCA),
        ),
        (
            "an outdated one of the department",
            of(&clients, Validity::ForYears) + &of(&department, Validity::Over),
            Some(AlertDescription::UnknownCA),
        ),
        (
            "a department that is revoked itself",
            without_department + &of(&department, Validity::ForYears),
            Some(AlertDescription::CertificateRevoked),
        ),
    ] {
        let daemon = listening(&root, &clients.certificate(), &lists).start();
        let client = Client {
            trusted: &root,
            identity: Some(chained(department.client())),
        };
        let heard = alert(daemon.grpc, &client, "h2").await;
        assert_eq!(heard, wanted, "{case}");
    }
}

#[tokio::test]
async fn a_revocation_takes_effect_without_a_restart_on_open_connections_too() {
    let (root, clients) = (Authority::root("root"), Authority::root("clients"));
    let lists = clients.revocation_list(&[], Validity::ForYears);
    let daemon = listening(&root, &clients.certificate(), &lists).start();
    let (stays, goes) = (clients.client(), clients.client());
    let client = |leaf: &Leaf| Client {
        trusted: &root,
        identity: Some(leaf.clone()),
    };
    let mut open = Vec::new();
    for leaf in [&stays, &goes] {
        let channel = channel(&daemon, &client(leaf)).await.expect("it is served");
        let mut vms = VmServiceClient::new(channel);
        let listed = vms.list_vms(v1::ListVmsRequest::default()).await;
        listed.expect("it is served");
        open.push(vms);
    }
    let lists = clients.revocation_list(&[&goes], Validity::ForYears);
    // By itself on one listener, and with a reload on the other.
    for (listener, _) in LISTENERS {
        let path = daemon
            .folder
            .path()
            .join(format!("{listener}.client_crl.pem"));
        certificates::replace(&path, &lists);
        if listener == "http" {
            daemon.signal(Signal::HUP);
        }
    }
    for (address, (_, protocol)) in [daemon.grpc, daemon.http].into_iter().zip(LISTENERS) {
        eventually("the revocation", NOTICED, || async {
            let heard = alert(address, &client(&goes), protocol).await;
            (heard == Some(AlertDescription::CertificateRevoked)).then_some(())
        })
        .await;
        assert_eq!(alert(address, &client(&stays), protocol).await, None);
    }
    let [mut of_stays, mut of_goes] = <[_; 2]>::try_from(open).expect("two");
    let listed = of_stays.list_vms(v1::ListVmsRequest::default()).await;
    listed.expect("it is served still");
    let refused = of_goes.list_vms(v1::ListVmsRequest::default()).await;
    let refused = refused.expect_err("its certificate is revoked");
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
    assert!(
        refused.message().contains("not accepted any more"),
        "{refused}"
    );
}

/// A session that is resumed would bring a certificate that nobody looks at again.
#[tokio::test]
async fn clients_with_certificates_do_not_resume_sessions() {
    let (root, clients) = (Authority::root("root"), Authority::root("clients"));
    let mut with_clients = setup();
    serve_with(&mut with_clients, "http", &root.server());
    name_file(
        &mut with_clients,
        "http.client_ca_certs",
        &clients.certificate(),
    );
    let mut without = setup();
    serve_with(&mut without, "http", &root.server());
    let client = Client {
        trusted: &root,
        identity: Some(clients.client()),
    };
    for (setup, second) in [
        (without, HandshakeKind::Resumed),
        (with_clients, HandshakeKind::Full),
    ] {
        let daemon = setup.start();
        // It keeps tickets.
        let config = client_config(&client, &[&TLS13]);
        for wanted in [HandshakeKind::Full, second] {
            let kind = handshake_kind(daemon.http, config.clone()).await;
            assert_eq!(kind.expect("it is served"), wanted);
        }
    }
}
