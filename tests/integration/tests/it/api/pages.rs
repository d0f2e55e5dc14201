//! Lists in pages and by what VMs are like.

use casemate_integration::http::Request;
use casemate_proto::v1;
use serde_json::Value;

#[tokio::test]
async fn a_list_is_read_page_by_page_and_filtered() {
    let daemon = super::daemon();
    let mut made = Vec::new();
    for number in 0..5 {
        let parity = if number % 2 == 0 { "even" } else { "odd" };
        let spec = v1::VmSpec {
            name: format!("vm-{number}"),
            labels: [("parity".to_owned(), parity.to_owned())].into(),
            ..v1::VmSpec::default()
        };
        made.push(daemon.create(spec).await.expect("it runs"));
    }
    let mut vms = daemon.vms().await;
    let mut token = String::new();
    let mut names = Vec::new();
    let mut sizes = Vec::new();
    loop {
        let request = v1::ListVmsRequest {
            page_size: 2,
            page_token: token.clone(),
            ..v1::ListVmsRequest::default()
        };
        let page = vms.list_vms(request).await.expect("a page").into_inner();
        sizes.push(page.vms.len());
        names.extend(page.vms.into_iter().map(|vm| vm.name));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
        // What goes does not move the rest.
        if sizes.len() == 1 {
            daemon.remove(&made[0].id).await.expect("it is gone");
        }
    }
    assert_eq!(sizes, [2, 2, 1]);
    assert_eq!(names, ["vm-0", "vm-1", "vm-2", "vm-3", "vm-4"]);
    for (query, wanted) in [
        ("", &["vm-1", "vm-2", "vm-3", "vm-4"][..]),
        ("label=parity%3Dodd", &["vm-1", "vm-3"]),
        ("label=parity%3Dodd&label=parity%3Dodd", &["vm-1", "vm-3"]),
        ("label=parity%3Dnone", &[]),
        ("name=vm-2", &["vm-2"]),
        ("backend=plain-kvm&page_size=1", &["vm-1"]),
        ("backend=other", &[]),
        (
            "state=running&state=paused",
            &["vm-1", "vm-2", "vm-3", "vm-4"],
        ),
        ("state=paused", &[]),
    ] {
        let listed = Request::get(&format!("/v1/vms?{query}"))
            .send(daemon.http)
            .await;
        let listed = listed.expect("an answer").json();
        let vms = listed["vms"].as_array().expect("VMs");
        let names: Vec<&str> = vms.iter().filter_map(|vm| vm["name"].as_str()).collect();
        assert_eq!(names, wanted, "{query}");
        // Findings are for one VM at a time.
        assert!(
            vms.iter()
                .all(|vm| vm["findings"] == Value::Array(Vec::new()))
        );
    }
}
