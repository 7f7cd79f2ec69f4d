//! `cargo xtask schema`: writes `docs/report-schema.md` from the comments on the types of the
//! profile.
//!
//! Serialised, the profile *is* the JSON report, so its types say everything about the schema:
//! names, what may be null or absent, and what each field means. They are read as source, in the
//! few forms that the profile uses; anything else is an error, so that nothing is left out
//! unnoticed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail, ensure};
use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
use syn::{
    Attribute, Expr, Fields, GenericArgument, Ident, Item, Lit, Meta, PathArguments, Token, Type,
};

use crate::host;

/// Where the types are, from the project's directory.
const SOURCES: [&str; 12] = [
    "memtrace/src/profile/mod.rs",
    "memtrace/src/profile/host.rs",
    "memtrace/src/profile/process.rs",
    "memtrace/src/profile/memory.rs",
    "memtrace/src/profile/role.rs",
    "memtrace/src/profile/timeline.rs",
    "memtrace/src/profile/advice.rs",
    "memtrace/src/profile/site.rs",
    "memtrace/src/profile/stack.rs",
    "memtrace/src/profile/by.rs",
    "memtrace/src/profile/unchanged.rs",
    "memtrace/src/profile/phase.rs",
];
/// Where the histograms are, whose written form is a type of another name.
const DISTRIBUTION: (&str, &str, &str) =
    ("memtrace/src/distribution.rs", "Written", "Distribution");
/// What is written.
const DOCUMENT: &str = "docs/report-schema.md";
/// The type that a report is.
const ROOT: &str = "Profile";

const INTRODUCTION: &str = "\
# The JSON report

<!-- Made by `cargo xtask schema` from the comments in memtrace/src/profile/. Change those. -->

`memtrace -f json` and `memtrace -o FILE.json` write one object, a [Profile](#profile); `json.gz` is
the same, compressed by gzip. The schema changes only by adding: fields, and names of causes,
languages and the like. So readers should pass over fields that they do not know, and show names
that they do not know as they are. Unless said otherwise, counts are pages or faults, and sizes are
bytes. `null` means: not known.

Sums hold: `copied_pages` of the whole is the sum over processes, over call sites, over causes and
over origins. What was lost is part of them, in call sites named `[lost]`.

Names of functions, files and processes come from the traced programs and may be made to deceive:
whoever shows them must escape them. Names of functions, types and source files that begin with a
square bracket are memtrace's own, such as `[lost]` and `[unknown]`: of a foreign name that begins
so, the bracket is spelled out (`\\u{5b}lost]`).
";

/// Write docs/report-schema.md from the comments on the report's types.
#[derive(clap::Args)]
pub struct Args {
    /// Write nothing; exit 1 when the document is stale
    #[arg(long)]
    check: bool,
}

/// Writes the document, or compares it.
pub fn run(args: &Args) -> Result<ExitCode> {
    let (path, document) = (host::project().join(DOCUMENT), document()?);
    if args.check {
        if fs::read_to_string(&path).unwrap_or_default() == document {
            return Ok(ExitCode::SUCCESS);
        }
        eprintln!("{DOCUMENT} is stale; run: cargo xtask schema");
        return Ok(ExitCode::FAILURE);
    }
    host::write_atomically(&path, document.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// The document, as it should be.
fn document() -> Result<String> {
    let mut schema = Schema::default();
    for source in SOURCES {
        schema.read(source)?;
    }
    let (source, name, shown) = DISTRIBUTION;
    let mut histograms = Schema::default();
    histograms.read(source)?;
    let written = histograms.types.remove(name).context("no histograms")?;
    schema.types.insert(shown.to_owned(), written);

    let mut text = INTRODUCTION.to_owned();
    let mut todo = vec![ROOT.to_owned()];
    let mut done = BTreeSet::new();
    while let Some(name) = todo.pop() {
        if done.insert(name.clone()) {
            let mut named = schema.write(&name, &mut text)?;
            named.reverse();
            todo.append(&mut named);
        }
    }
    Ok(text)
}

/// What there is to say of the schema.
#[derive(Default)]
struct Schema {
    /// The types, by name.
    types: BTreeMap<String, Declared>,
    /// Constants that comments name.
    constants: BTreeMap<String, String>,
}

/// A type.
struct Declared {
    what: String,
    form: Form,
}

enum Form {
    Object(Vec<Field>),
    Names(Vec<(String, String)>),
}

struct Field {
    name: String,
    shape: Shape,
    what: String,
    may_be_absent: bool,
    /// Its own fields are the object's.
    is_flattened: bool,
}

/// A field's type, as JSON has it.
struct Shape {
    text: String,
    /// The type of this schema that it is made of.
    named: Option<String>,
}

impl Schema {
    fn read(&mut self, source: &str) -> Result<()> {
        let path: PathBuf = host::project().join(source);
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let file = syn::parse_file(&text).with_context(|| format!("cannot parse {source}"))?;
        for item in file.items {
            self.item(item).with_context(|| format!("in {source}"))?;
        }
        Ok(())
    }

    fn item(&mut self, item: Item) -> Result<()> {
        match item {
            Item::Const(constant) => {
                if let Expr::Lit(value) = *constant.expr
                    && let Lit::Str(value) = value.lit
                {
                    self.constants
                        .insert(constant.ident.to_string(), value.value());
                }
            }
            Item::Struct(item) if is_written(&item.attrs) => {
                let fields = fields(item.fields)?;
                self.add(&item.ident, &item.attrs, Form::Object(fields));
            }
            Item::Enum(item) if is_written(&item.attrs) => {
                let names = item
                    .variants
                    .iter()
                    .filter(|variant| !has_serde(&variant.attrs, "untagged"));
                let names = names.map(|variant| {
                    let renamed = serde_value(&variant.attrs, "rename");
                    let name = renamed.unwrap_or_else(|| snake_case(&variant.ident.to_string()));
                    (name, comment(&variant.attrs))
                });
                let form = Form::Names(names.collect());
                self.add(&item.ident, &item.attrs, form);
            }
            Item::Macro(item) if item.mac.path.is_ident("tally") => {
                let tally: Tally = item.mac.parse_body()?;
                self.tally(&tally);
            }
            _ => {}
        }
        Ok(())
    }

    fn add(&mut self, name: &Ident, attributes: &[Attribute], form: Form) {
        let what = comment(attributes);
        self.types.insert(name.to_string(), Declared { what, form });
    }

    /// Both types that the macro of profile/by.rs makes.
    fn tally(&mut self, tally: &Tally) {
        let mut fields: Vec<Field> = (tally.names.iter())
            .map(|name| Field {
                name: name.field.to_string(),
                shape: Shape::plain("integer"),
                what: comment(&name.attributes),
                may_be_absent: false,
                is_flattened: false,
            })
            .collect();
        fields.push(Field {
            name: "…".to_owned(),
            shape: Shape::plain("integer"),
            what: "Names that later versions add.".to_owned(),
            may_be_absent: true,
            is_flattened: false,
        });
        let names = tally.names.iter();
        let names = names.map(|name| (name.field.to_string(), comment(&name.attributes)));
        let names = Form::Names(names.collect());
        self.add(&tally.sums, &tally.sums_attributes, Form::Object(fields));
        self.add(&tally.name, &tally.name_attributes, names);
    }

    /// Writes a type; returns those that it names, in order.
    fn write(&self, name: &str, text: &mut String) -> Result<Vec<String>> {
        let Some(Declared { what, form }) = self.types.get(name) else {
            bail!("{name} is part of the schema, but no type that is looked at");
        };
        let what = self.plain(what);
        write!(text, "\n## {name}\n\n{what}\n\n")?;
        let mut named = Vec::new();
        match form {
            Form::Object(fields) => {
                text.push_str("| field | is | what |\n|---|---|---|\n");
                self.write_fields(fields, text, &mut named)?;
            }
            Form::Names(values) => {
                text.push_str(
                    "A string. Later versions may add others.\n\n| is | means |\n|---|---|\n",
                );
                for (name, what) in values {
                    ensure!(!what.is_empty(), "{name} has no comment");
                    writeln!(text, "| `{name}` | {} |", cell(&self.plain(what)))?;
                }
            }
        }
        Ok(named)
    }

    fn write_fields(
        &self,
        fields: &[Field],
        text: &mut String,
        named: &mut Vec<String>,
    ) -> Result<()> {
        for field in fields {
            let Field {
                name, shape, what, ..
            } = field;
            if field.is_flattened {
                let declared = shape.named.as_ref().and_then(|name| self.types.get(name));
                let Some(Form::Object(fields)) = declared.map(|declared| &declared.form) else {
                    bail!("{name} is flattened, but is not an object");
                };
                self.write_fields(fields, text, named)?;
                continue;
            }
            ensure!(!what.is_empty(), "{name} has no comment");
            let absent = if field.may_be_absent {
                ", or absent"
            } else {
                ""
            };
            let what = cell(&self.plain(what));
            writeln!(text, "| `{name}` | {}{absent} | {what} |", shape.text)?;
            named.extend(shape.named.clone());
        }
        Ok(())
    }

    /// A comment without what only readers of the code understand.
    fn plain(&self, comment: &str) -> String {
        let mut plain = comment.replace("`None`", "`null`").replace("[`", "`");
        // What is left of links: `Name`] and `Name`](path).
        while let Some(at) = plain.find("`]") {
            let end = match plain[at + 2..].strip_prefix('(') {
                Some(rest) => rest.find(')').map_or(at + 2, |end| at + 2 + end + 2),
                None => at + 2,
            };
            plain.replace_range(at + 1..end, "");
        }
        for (name, value) in &self.constants {
            plain = plain.replace(&format!("`{name}`"), &format!("`{value}`"));
        }
        plain
    }
}

impl Shape {
    fn plain(text: &str) -> Self {
        let text = text.to_owned();
        Self { text, named: None }
    }

    fn of(ty: &Type) -> Result<Self> {
        if let Type::Slice(slice) = ty {
            return Ok(Self::of(&slice.elem)?.within("array of "));
        }
        let Type::Path(path) = ty else {
            bail!("a type of a form that is not looked at");
        };
        let last = path.path.segments.last().context("a type without a name")?;
        let of = match &last.arguments {
            PathArguments::AngleBracketed(of) => of.args.iter().collect(),
            _ => Vec::new(),
        };
        let argument = |at: usize| match of.get(at) {
            Some(GenericArgument::Type(ty)) => Self::of(ty),
            _ => bail!("{} lacks the type of what is in it", last.ident),
        };
        Ok(match last.ident.to_string().as_str() {
            "u8" | "u16" | "u32" | "u64" | "i32" | "i64" => Self::plain("integer"),
            "f64" => Self::plain("number"),
            "bool" => Self::plain("boolean"),
            "String" | "str" => Self::plain("string"),
            "Arc" | "OrOther" => argument(0)?,
            "Option" => {
                let mut shape = argument(0)?;
                shape.text += " or null";
                shape
            }
            "Vec" => argument(0)?.within("array of "),
            "BTreeMap" => {
                let key = argument(0)?.text;
                argument(1)?.within(&format!("object: by {key}, each "))
            }
            name => Self {
                text: format!("[{name}](#{})", name.to_lowercase()),
                named: Some(name.to_owned()),
            },
        })
    }

    fn within(self, before: &str) -> Self {
        Self {
            text: format!("{before}{}", self.text),
            ..self
        }
    }
}

fn fields(fields: Fields) -> Result<Vec<Field>> {
    let Fields::Named(fields) = fields else {
        return Ok(Vec::new());
    };
    let field = |field: syn::Field| {
        let name = field.ident.context("a field without a name")?.to_string();
        let mut shape = Shape::of(&field.ty).with_context(|| format!("in {name}"))?;
        let may_be_absent = serde_value(&field.attrs, "skip_serializing_if").is_some();
        if may_be_absent {
            // It is not written then.
            shape.text = shape.text.replace(" or null", "");
        }
        Ok(Field {
            name,
            shape,
            what: comment(&field.attrs),
            may_be_absent,
            is_flattened: has_serde(&field.attrs, "flatten"),
        })
    };
    fields.named.into_iter().map(field).collect()
}

/// What the macro of profile/by.rs is given.
struct Tally {
    sums_attributes: Vec<Attribute>,
    sums: Ident,
    name_attributes: Vec<Attribute>,
    name: Ident,
    names: Punctuated<TallyName, Token![,]>,
}

struct TallyName {
    attributes: Vec<Attribute>,
    field: Ident,
}

impl Parse for Tally {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let sums_attributes = input.call(Attribute::parse_outer)?;
        input.parse::<Token![pub]>()?;
        input.parse::<Token![struct]>()?;
        let sums = input.parse()?;
        input.parse::<Ident>()?; // by
        let name_attributes = input.call(Attribute::parse_outer)?;
        input.parse::<Token![enum]>()?;
        let name = input.parse()?;
        input.parse::<Ident>()?; // of
        input.parse::<Ident>()?;
        let list;
        syn::braced!(list in input);
        Ok(Self {
            sums_attributes,
            sums,
            name_attributes,
            name,
            names: list.parse_terminated(TallyName::parse, Token![,])?,
        })
    }
}

impl Parse for TallyName {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let attributes = input.call(Attribute::parse_outer)?;
        let field = input.parse()?;
        input.parse::<Token![:]>()?;
        input.parse::<Ident>()?;
        Ok(Self { attributes, field })
    }
}

/// Whether a type is serialised.
fn is_written(attributes: &[Attribute]) -> bool {
    let mut derives = attributes.iter().filter(|a| a.path().is_ident("derive"));
    derives.any(|derive| {
        let paths = derive.parse_args_with(Punctuated::<syn::Path, Token![,]>::parse_terminated);
        paths.is_ok_and(|paths| paths.iter().any(|path| path.is_ident("Serialize")))
    })
}

/// What serde is told.
fn serde(attributes: &[Attribute]) -> Vec<Meta> {
    let serde = attributes.iter().filter(|a| a.path().is_ident("serde"));
    let told = serde.filter_map(|attribute| {
        let told = attribute.parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated);
        told.ok()
    });
    told.flatten().collect()
}

fn has_serde(attributes: &[Attribute], name: &str) -> bool {
    serde(attributes)
        .iter()
        .any(|meta| meta.path().is_ident(name))
}

fn serde_value(attributes: &[Attribute], name: &str) -> Option<String> {
    serde(attributes).into_iter().find_map(|meta| match meta {
        Meta::NameValue(pair) if pair.path.is_ident(name) => string(&pair.value),
        _ => None,
    })
}

/// The comment: lines of a paragraph as one, paragraphs apart.
fn comment(attributes: &[Attribute]) -> String {
    let lines = attributes
        .iter()
        .filter_map(|attribute| match &attribute.meta {
            Meta::NameValue(pair) if pair.path.is_ident("doc") => string(&pair.value),
            _ => None,
        });
    let mut comment = String::new();
    for line in lines {
        let line = line.trim();
        if line.is_empty() {
            comment.push_str("\n\n");
        } else {
            if !comment.is_empty() && !comment.ends_with('\n') {
                comment.push(' ');
            }
            comment.push_str(line);
        }
    }
    comment
}

fn string(value: &Expr) -> Option<String> {
    match value {
        Expr::Lit(literal) => match &literal.lit {
            Lit::Str(text) => Some(text.value()),
            _ => None,
        },
        _ => None,
    }
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace("\n\n", "<br>")
}

/// `FramePointers` as `frame_pointers`.
fn snake_case(name: &str) -> String {
    let mut snake = String::new();
    for c in name.chars() {
        if c.is_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.extend(c.to_lowercase());
    }
    snake
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_is_not_stale() {
        let path = host::project().join(DOCUMENT);
        let is = fs::read_to_string(path).unwrap_or_default();
        assert!(is == document().unwrap(), "run: cargo xtask schema");
    }

    /// A schema of one file.
    fn schema(source: &str) -> Result<Schema> {
        let mut schema = Schema::default();
        for item in syn::parse_file(source)?.items {
            schema.item(item)?;
        }
        Ok(schema)
    }

    fn written(source: &str, name: &str) -> Result<String> {
        let mut text = String::new();
        schema(source)?.write(name, &mut text)?;
        Ok(text)
    }

    #[test]
    fn a_type_is_said_as_json_has_it() {
        let source = r#"
            const NAME: &str = "x/1";
            /// A thing, see [`Other`](super::Other).
            #[derive(Clone, Serialize)]
            pub struct Thing {
                /// [`NAME`] | or
                /// `None`.
                pub name: Option<Arc<str>>,
                /// Sizes.
                #[serde(default, skip_serializing_if = "Option::is_none")]
                pub sizes: Option<Vec<u64>>,
                /// By pid.
                pub by: BTreeMap<u32, Kind>,
            }
        "#;
        let expected = "
## Thing

A thing, see `Other`.

| field | is | what |
|---|---|---|
| `name` | string or null | `x/1` \\| or `null`. |
| `sizes` | array of integer, or absent | Sizes. |
| `by` | object: by integer, each [Kind](#kind) | By pid. |
";
        assert_eq!(written(source, "Thing").unwrap(), expected);
    }

    #[test]
    fn names_are_those_that_are_written() {
        let source = r#"
            /// A kind.
            #[derive(Serialize)]
            #[serde(rename_all = "snake_case")]
            pub enum Kind {
                /// One.
                #[serde(rename = "fp")]
                FramePointers,
                /// Two.
                NoTables,
                /// Later.
                #[serde(untagged)]
                Other(Other),
            }
        "#;
        let text = written(source, "Kind").unwrap();
        assert!(
            text.ends_with("| `fp` | One. |\n| `no_tables` | Two. |\n"),
            "{text}"
        );
    }

    #[test]
    fn what_is_not_said_or_not_understood_is_an_error() {
        let of = |field: &str| {
            let source = format!("/// T.\n#[derive(Serialize)] struct T {{ {field} }}");
            written(&source, "T").map_err(|error| format!("{error:#}"))
        };
        assert_eq!(of("pages: u64,").unwrap_err(), "pages has no comment");
        assert!(of("/// P.\npages: (u64, u64),").is_err());
        assert!(written("", "T").is_err());
    }
}
