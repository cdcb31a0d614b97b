//! The calls of openapi.yaml.

/// Returns every call: its method, in capitals, and its path.
pub(crate) fn calls() -> Vec<(String, &'static str)> {
    let (mut calls, mut path) = (Vec::new(), "");
    let paths = include_str!("../../openapi.yaml").split_once("\npaths:\n").unwrap().1;
    for line in paths.lines().take_while(|line| line.is_empty() || line.starts_with(' ')) {
        match (line.len() - line.trim_start().len(), line.trim().trim_end_matches(':')) {
            (2, name) => path = name,
            (4, method @ ("get" | "put" | "post" | "patch" | "delete")) => calls.push((method.to_uppercase(), path)),
            _ => {}
        }
    }
    assert!(calls.len() > 15, "{calls:?}");
    calls
}
