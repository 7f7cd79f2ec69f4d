# Prints what code objects and types are called and where they are, then waits for its input to end.
import collections, dataclasses, decimal, dis, enum, sys, sysconfig, types


def say(*fields):
    sys.stdout.write("\t".join(map(str, fields)) + "\n")


class Plain:
    class Nested:
        pass

    def method(self):
        return [
            value
            for value in (
                1,
                2,
            )
        ]


class Grüße日本𝒳:
    pass


class Colour(enum.Enum):
    RED = 1


@dataclasses.dataclass
class Point:
    x: int
    y: int = 0


class Many:
    for _at in range(300):
        locals()["a%d" % _at] = _at


class Text(str):
    pass


class Odd:
    __module__ = 7


class Moved:
    pass


Moved.__module__ = Text("some.where")

Pair = collections.namedtuple("Pair", "a b")

PROGRAM = """
import functools
@functools.lru_cache(
    None
)
@functools.wraps(
    print)
def decorated(a,
              b=(1,
                 2)):
    try:
        for each in a:
            if each:
                continue
            b = {k: v
                 for k, v in
                 each}
    except (ValueError,
            KeyError) as error:
        raise RuntimeError(
            error
        ) from error
    finally:
        print(a,
              b)
    with open(a) as f, \\
            open(b) as g:
        yield f
async def coroutine(x):
    async with x as y:
        return await y
def far():
    value = (
        1 +
""" + "\n" * 400 + """
        g(
            2)
    )
    return value
def back(x):
    return f(
        x.a,
""" + "\n" * 200 + """
        x.b,
    ).c
class C(Base):
    attribute = lambda self: (
        self,
        self)
def """ + "n" * 300 + """(): pass
def größe(): pass
def 日本(): pass
def 𝒳𝒳(): pass
"""
LONG = "def long(x):\n" + "".join("    x = x + %d\n" % at for at in range(2200))


def lines(code):
    size = len(code.co_code)
    found = [None] * size
    if hasattr(code, "co_lines"):
        for start, end, line in code.co_lines():
            for at in range(start, min(end, size)):
                found[at] = line
    else:
        starts = list(dis.findlinestarts(code))
        for (start, line), end in zip(starts, [at for at, _ in starts[1:]] + [size]):
            for at in range(start, end):
                found[at] = line
    return found[::2]


def walk(code):
    yield code
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            yield from walk(const)


keep = [
    compile(PROGRAM, "<frozen importlib._bootstrap>", "exec"),
    compile(LONG, "/srv/" + "d" * 600 + "/long.py", "exec"),
    compile("def f():\n  pass\n", "/srv/größe日本.py", "exec"),
]
for module in (collections, dataclasses, decimal, dis, enum, types, sysconfig):
    with open(module.__file__, "rb") as source:
        keep.append(compile(source.read(), module.__file__, "exec"))

say("version", sys.version_info[0] * 256 + sys.version_info[1],
    sysconfig.get_config_var("Py_GIL_DISABLED") or 0, id(type), id(types.CodeType))
for module in keep:
    for code in walk(module):
        say("code", id(code), getattr(code, "co_qualname", code.co_name), code.co_filename,
            code.co_firstlineno, ",".join("-" if x is None else str(x) for x in lines(code)))

extension = []
for name in ("_decimal", "_struct", "_random", "array", "_queue", "_asyncio", "_sre", "_thread"):
    try:
        loaded = __import__(name)
    except ImportError:
        continue
    extension += [t for t in vars(loaded).values() if isinstance(t, type)]
for cls in [str, dict, int, type, object, list, types.FunctionType, types.CodeType, ValueError,
            type(None), type(iter([])), types.SimpleNamespace, collections.OrderedDict,
            collections.deque, collections.defaultdict, collections.Counter, decimal.Decimal,
            Plain, Plain.Nested, Grüße日本𝒳, Colour, enum.EnumMeta, Point, Many, Pair, Text, Odd,
            Moved] + extension:
    module = cls.__module__
    if isinstance(module, str) and module != "builtins":
        say("type", id(cls), module + "." + cls.__qualname__)
    else:
        say("type", id(cls), cls.__qualname__)
say("none", id("no type"))
say("none", id(Plain()))
say("end")
sys.stdout.flush()
sys.stdin.read()
