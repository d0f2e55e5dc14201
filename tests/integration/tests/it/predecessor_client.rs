//! A client of the predecessor, generated from its published field list alone, works for all four
//! RPCs. The guest that it starts is real, so what the agent reads is what the fields became.

use casemate_integration::daemon::{Setup, agent_answer, get_http};
use casemate_integration::predecessor as client;
use tonic::Code;

#[tokio::test]
async fn all_four_calls_of_an_unchanged_client() {
    let mut setup = Setup::new();
    setup.set("vm.eos_version", "eos-1");
    let daemon = setup.start();
    let mut manager = daemon.predecessor().await;
    let created = manager
        .create_vm(client::CreateReq {
            agent_log_level: "debug".to_owned(),
            agent_cvm_server_ca_cert: b"the CA".to_vec(),
            agent_cvm_client_key: b"the key".to_vec(),
            agent_cvm_client_cert: b"the certificate".to_vec(),
            agent_cvm_server_url: "localhost:7001".to_owned(),
            agent_cvm_ca_url: "https://ca".to_owned(),
            ttl: "1h".to_owned(),
            agent_certs_token: "token, with \"quotes\"".to_owned(),
            aws_access_key_id: "id".to_owned(),
            aws_secret_access_key: "aws-canary".to_owned(),
            aws_endpoint_url: "https://s3".to_owned(),
            aws_region: "eu".to_owned(),
            aa_kbs_params: "cc_kbc::http://127.0.0.1:8080".to_owned(),
        })
        .await
        .expect("it runs")
        .into_inner();
    let address = format!("127.0.0.1:{}", created.forwarded_port);
    let body = agent_answer(&address).await;
    let environment: Vec<&str> = body.lines().filter(|line| line.contains('=')).collect();
    assert_eq!(
        environment,
        [
            "AGENT_LOG_LEVEL=debug",
            "AGENT_CVM_GRPC_URL=localhost:7001",
            "AGENT_CVM_GRPC_CLIENT_CERT=/etc/certs/cert.pem",
            "AGENT_CVM_GRPC_CLIENT_KEY=/etc/certs/key.pem",
            "AGENT_CVM_GRPC_SERVER_CA_CERTS=/etc/certs/ca.pem",
            "AGENT_CERTS_TOKEN=token, with \"quotes\"",
            "AGENT_CVM_CA_URL=https://ca",
            "AWS_ACCESS_KEY_ID=id",
            "AWS_SECRET_ACCESS_KEY=aws-canary",
            "AWS_ENDPOINT_URL=https://s3",
            "AWS_REGION=eu",
            &format!("AGENT_CVM_ID={}", created.cvm_id),
        ]
    );
    let socket = address.parse().expect("an address");
    let (_, certificates) = get_http(socket, "/certs").await.expect("the agent answers");
    for file in ["cert.pem", "key.pem", "ca.pem"] {
        assert!(certificates.contains(file), "{certificates}");
    }
    let (_, cmdline) = get_http(socket, "/cmdline")
        .await
        .expect("the agent answers");
    assert!(
        cmdline
            .trim_end()
            .ends_with("agent.aa_kbc_params=cc_kbc::http://127.0.0.1:8080"),
        "{cmdline}"
    );

    let info = manager
        .cvm_info(client::CvmInfoReq {
            id: created.cvm_id.clone(),
        })
        .await;
    let info = info.expect("it is there").into_inner();
    assert_eq!(info.id, created.cvm_id);
    assert_eq!(info.ovmf_version, "edk2-stable202408");
    assert_eq!(info.eos_version, "eos-1");
    assert_eq!(info.cpu_num, 1);
    assert_eq!(info.cpu_type, "EPYC");
    assert_eq!(info.kernel_cmd, cmdline.trim_end());

    let policy = client::AttestationPolicyReq {
        id: created.cvm_id.clone(),
    };
    let refused = manager
        .attestation_policy(policy)
        .await
        .expect_err("nothing is measured");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("plain-kvm"), "{refused}");

    let remove = client::RemoveReq {
        cvm_id: created.cvm_id.clone(),
    };
    manager
        .remove_vm(remove.clone())
        .await
        .expect("it is removed");
    let unknown = [
        manager.remove_vm(remove).await.map(drop),
        manager
            .cvm_info(client::CvmInfoReq {
                id: created.cvm_id.clone(),
            })
            .await
            .map(drop),
        manager
            .attestation_policy(client::AttestationPolicyReq { id: "x".to_owned() })
            .await
            .map(drop),
    ];
    for answer in unknown {
        assert_eq!(answer.expect_err("it is gone").code(), Code::NotFound);
    }
    let log = daemon.log();
    for secret in ["the key", "token, with", "aws-canary"] {
        assert!(!log.contains(secret), "{secret:?} is in the log");
    }
}

#[tokio::test]
async fn bad_requests_have_their_code_and_start_nothing() {
    let daemon = Setup::new().start();
    let mut manager = daemon.predecessor().await;
    let requests = [
        client::CreateReq {
            ttl: "soon".to_owned(),
            ..Default::default()
        },
        client::CreateReq {
            aws_region: "a\nb".to_owned(),
            ..Default::default()
        },
        client::CreateReq {
            aa_kbs_params: "a b".to_owned(),
            ..Default::default()
        },
    ];
    for request in requests {
        let refused = manager.create_vm(request).await.expect_err("it is bad");
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        assert!(refused.message().contains("remedy: "), "{refused}");
    }
    assert!(daemon.list().await.is_empty());
}

/// Health and reflection, as `grpcurl` and probes use them.
#[tokio::test]
async fn health_answers_everywhere_and_reflection_on_loopback() {
    use tonic::transport::Channel;
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_client::HealthClient;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::{ServerReflectionRequest, server_reflection_response};

    let daemon = Setup::new().start();
    let mut health = HealthClient::new(daemon.channel().await);
    for service in [
        "",
        "manager.ManagerService",
        "casemate.v1.VmService",
        "casemate.v1.BackendService",
    ] {
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        let answer = health
            .check(request)
            .await
            .expect("it is known")
            .into_inner();
        assert_eq!(answer.status, 1, "{service:?}");
    }
    let mut reflection = ServerReflectionClient::new(daemon.channel().await);
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    // Off loopback the interface is nobody's to read, and health is as before.
    let mut exposed = Setup::new();
    exposed.set("grpc.host", "0.0.0.0").set("insecure", true);
    let exposed = exposed.start();
    let address = format!("http://127.0.0.1:{}", exposed.grpc.port());
    let endpoint = Channel::from_shared(address).expect("a URL");
    let channel = endpoint.connect().await.expect("the daemon answers");
    let mut health = HealthClient::new(channel.clone());
    let checked = health.check(HealthCheckRequest::default()).await;
    assert_eq!(checked.expect("it is known").into_inner().status, 1);
    let mut off_loopback = ServerReflectionClient::new(channel);
    let refused = off_loopback
        .server_reflection_info(tokio_stream::iter([request.clone()]))
        .await
        .expect_err("it is not there");
    assert_eq!(refused.code(), Code::Unimplemented, "{refused}");
    let answers = reflection
        .server_reflection_info(tokio_stream::iter([request]))
        .await;
    let answer = answers
        .expect("it streams")
        .into_inner()
        .message()
        .await
        .expect("an answer");
    let Some(server_reflection_response::MessageResponse::ListServicesResponse(list)) =
        answer.and_then(|answer| answer.message_response)
    else {
        panic!("no list")
    };
    let names: Vec<&str> = list
        .service
        .iter()
        .map(|service| service.name.as_str())
        .collect();
    assert!(
        names.contains(&"manager.ManagerService") && names.contains(&"casemate.v1.VmService"),
        "{names:?}"
    );
}
