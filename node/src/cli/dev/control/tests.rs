use super::*;

const PAGE: &str = "http://127.0.0.1:4001";

/// Orders are counted, and answered as if they had been followed.
fn control() -> (Arc<Control>, tokio::task::JoinHandle<usize>) {
    let (orders, mut waiting) = mpsc::channel(ORDERS_MAX);
    let owner = tokio::spawn(async move {
        let mut kills = 0;
        while let Some(order) = waiting.recv().await {
            match order {
                Order::List(tx) => drop(tx.send(vec![(1, Some(7)), (2, None)])),
                Order::Kill(_, tx) => {
                    kills += 1;
                    drop(tx.send(Ok(true)));
                }
                Order::Start(number, tx) => drop(tx.send(Err(format!("there is no node {number}")))),
            }
        }
        kills
    });
    let control = Control {
        key: "secret".into(),
        origins: vec![PAGE.into()],
        urls: vec![PAGE.into(), "http://127.0.0.1:4002".into()],
        peers: Vec::new(),
        slots: SlotTable::even(4),
        orders,
    };
    (Arc::new(control), owner)
}

async fn ask(control: &Arc<Control>, verb: &str, path: &str, headers: &[(&str, &str)]) -> Response {
    let mut request = Request::builder().method(verb).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    router(control.clone()).oneshot(request.body(Body::empty()).expect("a request")).await.expect("infallible")
}

#[tokio::test]
async fn only_a_page_of_this_cluster_with_the_key_may_kill() {
    let (control, owner) = control();
    let (host, origin, key) = (("host", "127.0.0.1:9"), ("origin", PAGE), (KEY_HEADER, "secret"));
    for (headers, why) in [
        (vec![host, origin], "no key"),
        (vec![host, origin, (KEY_HEADER, "guess")], "another key"),
        (vec![host, key], "no origin"),
        (vec![host, ("origin", "https://evil.example"), key], "a foreign page"),
        (vec![host, ("origin", "null"), key], "a sandboxed page"),
        (vec![("host", "evil.example:9"), origin, key], "a name that merely leads here"),
    ] {
        let response = ask(&control, "POST", "/nodes/1/kill", &headers).await;
        assert_eq!(response.status(), StatusCode::FORBIDDEN, "{why}");
    }
    let foreign = [host, ("origin", "https://evil.example"), ("access-control-request-method", "POST")];
    let preflight = ask(&control, "OPTIONS", "/nodes/1/kill", &foreign).await;
    assert_eq!(preflight.status(), StatusCode::FORBIDDEN);
    assert!(preflight.headers().get(header::ACCESS_CONTROL_ALLOW_ORIGIN).is_none());
    let preflight = ask(&control, "OPTIONS", "/nodes/1/kill", &[host, origin]).await;
    assert_eq!(
        (preflight.status(), preflight.headers()[header::ACCESS_CONTROL_ALLOW_ORIGIN].as_bytes()),
        (StatusCode::NO_CONTENT, PAGE.as_bytes())
    );
    assert_eq!(
        ask(&control, "GET", "/nodes/1/kill", &[host, origin, key]).await.status(),
        StatusCode::METHOD_NOT_ALLOWED
    );
    assert_eq!(ask(&control, "POST", "/nodes/1/kill", &[host, origin, key]).await.status(), StatusCode::OK);
    assert_eq!(ask(&control, "POST", "/nodes/9/start", &[host, origin, key]).await.status(), StatusCode::NOT_FOUND);
    drop(control);
    assert_eq!(owner.await.expect("ends"), 1, "the owner of the processes heard of one order only");
}

#[tokio::test]
async fn nodes_that_do_not_answer_are_listed_and_lead_nothing() {
    let (mut control, _owner) = control();
    Arc::get_mut(&mut control).expect("one holder").peers =
        vec!["1=127.0.0.1:1".parse().expect("an address"), "2=127.0.0.1:1".parse().expect("an address")];
    let response = ask(
        &control,
        "GET",
        "/nodes?conv=d05alice03bob",
        &[("host", "localhost:9"), ("origin", PAGE), (KEY_HEADER, "secret")],
    )
    .await;
    assert_eq!(response.status(), StatusCode::OK);
    let bytes = axum::body::to_bytes(response.into_body(), 65_536).await.expect("a body");
    let seen: Value = serde_json::from_slice(&bytes).expect("JSON");
    assert_eq!(
        (&seen["nodes"][0]["pid"], &seen["nodes"][1]["pid"], &seen["leader"]),
        (&json!(7), &Value::Null, &Value::Null)
    );
    assert!(seen["shard"].is_number(), "{seen}");
}
