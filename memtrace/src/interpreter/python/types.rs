//! What a type is called.

use memtrace_common::interpreter::python::{FREE_THREADED, Layout};

use super::dict;
use super::text::{Text, has_type_flag};
use crate::foreign::{MAX_NAME, shown_name};
use crate::interpreter::NoTypeName;
use crate::process::memory::ReadMemory;

/// `tp_flags`: the type was made at run time, by a class statement or from a specification.
const HEAP_TYPE: u32 = 1 << 9;
/// `tp_flags`: a subclass of `type`, or itself.
const TYPE_SUBCLASS: u32 = 1 << 31;

/// The qualified name of the type object at `address`, fit to show: `str`,
/// `collections.OrderedDict`, `app.models.User`; builtins without `builtins.`. The name of
/// a class whose module cannot be had is the qualified name alone.
///
/// # Errors
///
/// When it could not be read, or is not a type.
pub fn type_name(
    address: u64,
    layout: &Layout,
    memory: &dyn ReadMemory,
) -> Result<String, NoTypeName> {
    let field = |offset: u32| address.checked_add(u64::from(offset));
    let unreadable = NoTypeName::Unreadable;
    let metaclass = field(layout.object_type)
        .and_then(|at| memory.word(at))
        .ok_or(unreadable)?;
    if metaclass != layout.type_type && !has_type_flag(address, TYPE_SUBCLASS, layout, memory) {
        return Err(NoTypeName::NotAType);
    }
    let flags = field(layout.type_flags)
        .and_then(|at| memory.half(at))
        .ok_or(unreadable)?;
    let name = if flags & HEAP_TYPE == 0 {
        static_name(address, layout, memory)
    } else {
        heap_name(address, layout, memory).or_else(|| static_name(address, layout, memory))
    };
    name.ok_or(NoTypeName::Nameless)
}

/// The name that a type in C code has, which carries its module.
fn static_name(address: u64, layout: &Layout, memory: &dyn ReadMemory) -> Option<String> {
    let name = memory.word(address.checked_add(u64::from(layout.type_name))?)?;
    let name = memory.c_string(name, MAX_NAME + 1)?;
    let name = name.strip_prefix(b"builtins.").unwrap_or(&name);
    (!name.is_empty()).then(|| shown_name(name))
}

/// The name that a class has, and that of its module.
fn heap_name(address: u64, layout: &Layout, memory: &dyn ReadMemory) -> Option<String> {
    let fields = Fields::of(layout);
    let read = |address| Text::read(address, MAX_NAME, layout, memory);
    let qualified = memory.word(address.checked_add(fields.qualified_name)?)?;
    let qualified = read(qualified)?.as_name();
    if qualified.is_empty() {
        return None;
    }
    let module = || {
        let attributes = memory.word(address.checked_add(fields.attributes)?)?;
        let module = dict::get(attributes, "__module__", layout, memory)?;
        Some(read(module)?.as_name())
    };
    Some(match module() {
        Some(module) if !module.is_empty() && module != "builtins" => {
            shown_name(format!("{module}.{qualified}").as_bytes())
        }
        _ => qualified,
    })
}

/// Where the parts of a class are.
struct Fields {
    /// `tp_dict`.
    attributes: u64,
    /// `ht_qualname`.
    qualified_name: u64,
}

impl Fields {
    fn of(layout: &Layout) -> Self {
        // 3.8 alone has `tp_print`; 3.10 added a slot for asynchronous calls, 3.12 `tp_watched`.
        let qualified_name = match layout.version {
            0x0309 => 856,
            ..=0x030b => 864,
            _ => 872,
        };
        let more = if layout.flags & FREE_THREADED == 0 {
            0
        } else {
            16
        };
        Self {
            attributes: 264 + more,
            qualified_name: qualified_name + more,
        }
    }
}
