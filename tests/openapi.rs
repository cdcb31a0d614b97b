//! openapi.yaml is what the handlers state. `UPDATE_OPENAPI=1 cargo test --test openapi` writes it anew.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[test]
fn the_contract_is_the_one_that_the_handlers_state() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi.yaml");
    let stated = sessiond::api::contract();
    if std::env::var_os("UPDATE_OPENAPI").is_some() {
        std::fs::write(path, &stated).unwrap();
    }
    assert!(
        std::fs::read_to_string(path).unwrap() == stated,
        "openapi.yaml differs from the handlers: UPDATE_OPENAPI=1 cargo test --test openapi writes it anew"
    );
}
