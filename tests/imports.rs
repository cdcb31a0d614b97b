//! The modules of `src/` import each other in one direction only, without cycles.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::{fs, io};

type Imports = BTreeMap<String, BTreeSet<String>>;

/// Every `.rs` file below `folder`.
fn files(folder: &Path) -> io::Result<Vec<std::path::PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    Ok(found)
}

/// The top-level modules that each top-level module names as `crate::module`.
fn imports() -> Imports {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut imports = Imports::new();
    for file in files(&src).unwrap() {
        let module = file.strip_prefix(&src).unwrap().iter().next().unwrap().to_str().unwrap();
        let module = module.trim_end_matches(".rs").to_owned();
        if module == "lib" || module == "main" {
            continue;
        }
        let text = fs::read_to_string(&file).unwrap();
        // Tests beside the code may build what they need.
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        let is_test = file.ends_with("tests.rs");
        let named = code.match_indices("crate::").flat_map(|(at, name)| named(&code[at + name.len()..]));
        let named = named.filter(|named| !is_test && *named != module);
        imports.entry(module.clone()).or_default().extend(named);
    }
    imports
}

/// The modules behind one `crate::`, which may be a group in braces.
fn named(rest: &str) -> Vec<String> {
    let group = rest.strip_prefix('{').map(|rest| rest.split('}').next().unwrap());
    group
        .map_or_else(|| vec![rest], |group| group.split(',').collect())
        .into_iter()
        .map(|name| name.trim().chars().take_while(|char| char.is_ascii_lowercase() || *char == '_').collect())
        .collect()
}

/// A cycle that starts and ends at `module`, if there is one.
fn cycle(imports: &Imports, module: &str) -> Option<Vec<String>> {
    let mut open = vec![vec![module.to_owned()]];
    let mut seen = BTreeSet::new();
    while let Some(path) = open.pop() {
        for next in imports.get(path.last().unwrap()).into_iter().flatten() {
            let mut longer = path.clone();
            longer.push(next.clone());
            if next == module {
                return Some(longer);
            }
            if seen.insert(next.clone()) {
                open.push(longer);
            }
        }
    }
    None
}

#[test]
fn modules_import_in_one_direction() {
    let imports = imports();
    assert!(imports["api"].contains("session") && imports["session"].contains("store"), "{imports:#?}");
    for module in imports.keys() {
        assert_eq!(cycle(&imports, module), None);
    }
    // The metrics are for everybody, and know nobody.
    assert_eq!(imports["telemetry"], BTreeSet::new());
    for (module, others) in [("store", ["api", "session", "config"]), ("session", ["api", "config", "server"])] {
        assert!(others.iter().all(|other| !imports[module].contains(*other)), "{module}: {:?}", imports[module]);
    }
}

#[test]
fn a_cycle_is_found() {
    let imports = [("a", "b"), ("b", "c"), ("c", "a")];
    let imports: Imports = imports.into_iter().map(|(from, to)| (from.into(), BTreeSet::from([to.into()]))).collect();
    assert_eq!(cycle(&imports, "a").unwrap(), ["a", "b", "c", "a"]);
    assert_eq!(named("{session, store};"), ["session", "store"]);
    assert_eq!(named("store::Error;"), ["store"]);
}
