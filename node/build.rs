//! Puts the page into the binary: every file of `web/` and the JavaScript client as they are, but for types, indentation and comments
//! on lines of their own, with a gzip of each beside it. The API's documents and the page that draws them likewise.
//!
//! Three words are filled in, nowhere else is anything changed: `{{version}}` (a hash over all files, part of their paths),
//! `{{modules}}` (`modulepreload` links, so that no module waits for another) and `{{files}}` (what works offline).

use std::error::Error;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Directories whose files are served, relative to the repository.
const ROOTS: [&str; 2] = ["node/web", "client-js/src"];
const DOCS: [&str; 2] = ["docs/api", "node/docs"];
/// What runs in Node only, and what holds types only.
const LEFT_OUT: [&str; 4] =
    ["client-js/src/node.js", "client-js/src/store/file.js", "client-js/src/store/lock.js", "client-js/src/types.js"];
/// Fetched when somebody wants them: not part of the first load.
const ON_DEMAND: [&str; 12] = [
    "client-js/src/export.js",
    "node/web/js/code.js",
    "node/web/js/views/about.js",
    "node/web/js/views/code.js",
    "node/web/js/views/dialog.js",
    "node/web/js/views/dialogs.js",
    "node/web/js/views/group.js",
    "node/web/js/views/menus.js",
    "node/web/js/views/search.js",
    "node/web/js/views/settings.js",
    "node/web/js/views/strip.js",
    "node/web/js/views/suggest.js",
];
/// Served at the root, and filled in.
const TEMPLATES: [&str; 2] = ["node/web/index.html", "node/web/sw.js"];

fn main() -> Result<(), Box<dyn Error>> {
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let repository = Path::new(&std::env::var("CARGO_MANIFEST_DIR")?).join("..").canonicalize()?;
    println!("cargo:rerun-if-changed=build.rs");
    let (mut files, version) = gather(&repository, &ROOTS)?;
    fill_in(&mut files, &version)?;
    let (docs, _) = gather(&repository, &DOCS)?;
    let mut table = format!("pub const VERSION: &str = {version:?};\n");
    for (name, files) in [("FILES", files), ("DOCS", docs)] {
        writeln!(table, "pub static {name}: &[File] = &[")?;
        for (at, (path, bytes)) in files.iter().enumerate() {
            let stem = out.join(format!("{}-{at}", name.to_lowercase()));
            writeln!(table, "    {},", pack(path, bytes, &stem)?)?;
        }
        table.push_str("];\n");
    }
    std::fs::write(out.join("page.rs"), table)?;
    Ok(())
}

type Files = Vec<(String, Vec<u8>)>;

/// All files of these directories, and a hash over them.
fn gather(repository: &Path, roots: &[&str]) -> Result<(Files, String), Box<dyn Error>> {
    let mut paths = Vec::new();
    for root in roots {
        println!("cargo:rerun-if-changed={}", repository.join(root).display());
        list(repository, Path::new(root), &mut paths)?;
    }
    paths.sort();
    let mut files = Vec::new();
    let mut all = Fnv::new();
    for path in paths {
        let mut bytes = std::fs::read(repository.join(&path))?;
        if path.ends_with(".js") {
            bytes = without_comments(std::str::from_utf8(&bytes)?).into_bytes();
        }
        if path.ends_with(".json") || path.ends_with(".css") {
            bytes = without_layout(std::str::from_utf8(&bytes)?).into_bytes();
        }
        all.add(path.as_bytes());
        all.add(&bytes);
        files.push((path, bytes));
    }
    Ok((files, all.hex()))
}

/// A `File`, with its bytes and their gzip beside `stem`.
fn pack(path: &str, bytes: &[u8], stem: &Path) -> Result<String, Box<dyn Error>> {
    let (plain, packed) = (stem.to_owned(), stem.with_extension("gz"));
    std::fs::write(&plain, bytes)?;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    gzip.write_all(bytes)?;
    std::fs::write(&packed, gzip.finish()?)?;
    let mut hash = Fnv::new();
    hash.add(bytes);
    Ok(format!(
        "File {{ path: {path:?}, content_type: {:?}, hash: {:?}, plain: include_bytes!({plain:?}), gzip: include_bytes!({packed:?}) }}",
        content_type(path)?,
        hash.hex(),
    ))
}

/// Written for people to read; machines need no indentation.
fn without_layout(text: &str) -> String {
    text.lines().map(str::trim_start).collect::<Vec<_>>().join("\n")
}

fn list(repository: &Path, dir: &Path, paths: &mut Vec<String>) -> Result<(), Box<dyn Error>> {
    for entry in std::fs::read_dir(repository.join(dir))? {
        let entry = entry?;
        let path = dir.join(entry.file_name());
        let name = path.to_str().ok_or("a file name is not UTF-8")?;
        if entry.file_type()?.is_dir() {
            list(repository, &path, paths)?;
        } else if !LEFT_OUT.contains(&name) && (!name.ends_with(".json") || name.starts_with("docs/api/")) {
            paths.push(name.to_owned());
        }
    }
    Ok(())
}

fn fill_in(files: &mut [(String, Vec<u8>)], version: &str) -> Result<(), Box<dyn Error>> {
    let (mut modules, mut names) = (String::new(), String::from("[\"/\""));
    for (path, _) in files.iter().filter(|(path, _)| !TEMPLATES.contains(&path.as_str())) {
        if path.ends_with(".js") && path != "node/web/theme.js" && !ON_DEMAND.contains(&path.as_str()) {
            writeln!(modules, "<link rel=\"modulepreload\" href=\"/page/{version}/{path}\">")?;
        }
        write!(names, ", \"/page/{version}/{path}\"")?;
    }
    names.push(']');
    for (_, bytes) in files.iter_mut().filter(|(path, _)| TEMPLATES.contains(&path.as_str())) {
        let text = std::str::from_utf8(bytes)?;
        let text = text.replace("{{version}}", version).replace("{{files}}", &names);
        *bytes = text.replace("{{modules}}", modules.trim_end()).into_bytes();
    }
    Ok(())
}

/// Leaves out comments that have lines for themselves, types, and indentation; the lines stay, so that places in the code are the same. A file that
/// ends inside a template string was not understood, and stays as it is.
fn without_comments(text: &str) -> String {
    let (mut kept, mut in_comment, mut in_template) = (String::new(), false, false);
    for line in text.lines() {
        let code = line.trim_start();
        let starts = !in_template && !in_comment && (code.starts_with("//") || code.starts_with("/*"));
        let rest = match (starts || in_comment, code.split_once("*/")) {
            _ if starts && code.starts_with("//") => "",
            // What follows a comment is code, a cast perhaps: such a line stays whole.
            (true, Some((_, rest))) if !rest.trim().is_empty() => {
                in_comment = false;
                if starts { line } else { rest }
            }
            (true, end) => {
                in_comment = end.is_none();
                ""
            }
            (false, _) => line,
        };
        let was_in_template = in_template;
        in_template ^= rest.matches('`').count() % 2 == 1;
        kept.push_str(&if was_in_template { rest.to_owned() } else { without_types(rest).trim_start().to_owned() });
        kept.push('\n');
    }
    if in_template || in_comment { text.to_owned() } else { kept }
}

/// Leaves out types among the code: `/** @type {any} */ (x)`.
fn without_types(line: &str) -> String {
    let (mut kept, mut rest) = (String::new(), line);
    while let Some((before, after)) = rest.split_once("/** @") {
        let Some((_, code)) = after.split_once("*/") else { break };
        kept.push_str(before);
        rest = code.trim_start();
    }
    kept.push_str(rest);
    kept
}

fn content_type(path: &str) -> Result<&'static str, Box<dyn Error>> {
    Ok(match path.rsplit_once('.').map(|(_, ending)| ending) {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("json") => "application/json",
        Some("webmanifest") => "application/manifest+json",
        _ => return Err(format!("{path}: which content type is that?").into()),
    })
}

/// FNV-1a: tells one build's files from another's, and is no secret.
struct Fnv(u64);

impl Fnv {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn hex(&self) -> String {
        format!("{:016x}", self.0)
    }
}
