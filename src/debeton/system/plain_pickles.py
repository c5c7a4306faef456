"""Pickles of other programs, read as data: none of their code runs, and none of their state is believed."""

from __future__ import annotations

import pickle
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, ClassVar

from debeton.system.plain_parts import FREE_ITEMS, ITEMS_PER_BYTE, Name, Part, Parts, add_all, put


class UnknownNameError(pickle.UnpicklingError):
    """A pickle names something that is not data. name: 'MODULE.NAME'."""

    def __init__(self, module: str, name: str):
        self.name = f"{module}.{name}"
        super().__init__(f"it wants {self.name}, which is not data")


def read_plain(file: BinaryIO, size: int, names: Mapping[tuple[str, str], Name], encoding: str) -> Any:
    """Return the value of the next pickle in a file. Arguments and errors as in `read_parts`."""
    return read_parts(file, size, names, encoding).value()


def read_parts(
    file: BinaryIO,
    size: int,
    names: Mapping[tuple[str, str], Name],
    encoding: str,
    stored: Callable[[Any], Any] | None = None,
) -> Parts:
    """Read the next pickle in a file, up to the values that are made of parts.

    file: the file, at the start of the pickle.
    size: bytes of the file.
    names: what the pickle may name, by module and name.
    encoding: of Python 2 text; 'bytes' leaves it alone.
    stored: returns what an identifier of the pickle stands for, such as the memory of a tensor. None: it has none.

    UnknownNameError if it names anything else. Another UnpicklingError if it is damaged or holds more than data.
    """
    start = file.tell()
    try:
        content = _PlainUnpickler(file, size, names, encoding, stored).load()
    except (pickle.UnpicklingError, OSError, MemoryError):
        raise
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise pickle.UnpicklingError(f"its instructions make no sense: {type(error).__name__}: {error}") from None
    return Parts(content, FREE_ITEMS + ITEMS_PER_BYTE * (file.tell() - start))


class _BoundedFile:
    """A file that is never asked for more bytes than it has, since `read` takes memory for them."""

    def __init__(self, file: BinaryIO, size: int):
        self.file, self.size = file, size
        self.readline = file.readline

    def read(self, count: int) -> bytes:
        found = self.file.read(min(count, self.size))
        if len(found) < count:
            raise EOFError("it ends too early")
        return found


class _PlainUnpickler(pickle._Unpickler):
    """An unpickler that calls nothing but the constructors of `names`, and sets the state of nothing but a `Part`.

    Python's own unpickler in C looks up `__setstate__` of whatever the file has made, and so does not serve here.
    """

    dispatch: ClassVar[dict[int, Callable[[Any], None]]]
    # Of Python's unpickler, which describes only its public methods.
    stack: list[Any]
    append: Callable[[Any], None]
    read: Callable[[int], bytes]
    pop_mark: Callable[[], list[Any]]

    def __init__(
        self,
        file: BinaryIO,
        size: int,
        names: Mapping[tuple[str, str], Name],
        encoding: str,
        stored: Callable[[Any], Any] | None,
    ):
        super().__init__(_BoundedFile(file, size), encoding=encoding)  # type: ignore[arg-type]
        self._names, self._stored, self._size = names, stored, size

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._names:
            raise UnknownNameError(module, name)
        return self._names[module, name]

    def persistent_load(self, identifier: Any) -> Any:
        if self._stored is None:
            raise pickle.UnpicklingError("it refers to data outside the file")
        return self._stored(identifier)

    def load_reduce(self) -> None:
        arguments = self.stack.pop()
        made_by = self.stack[-1]
        if type(made_by) is not Name or made_by.make is None or type(arguments) is not tuple:
            raise pickle.UnpicklingError("it calls what is no constructor")
        self.stack[-1] = made_by.make(*arguments)

    def load_build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if type(target) is OrderedDict:  # networks keep the versions of their layers in this attribute of their weights
            if isinstance(state, dict) and isinstance(state.get("_metadata"), dict):
                target._metadata = state["_metadata"]  # type: ignore[attr-defined]
        elif isinstance(target, Part):
            target.build(state)
        else:
            raise pickle.UnpicklingError(f"it gives a state to a {type(target).__name__}")

    def load_append(self) -> None:
        self._extend([self.stack.pop()])

    def load_appends(self) -> None:
        self._extend(self.pop_mark())

    def _extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not list:
            raise pickle.UnpicklingError(f"it appends to a {type(target).__name__}")
        target.extend(items)

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set_items([key, value])

    def load_setitems(self) -> None:
        self._set_items(self.pop_mark())

    def _set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) not in (dict, OrderedDict, Counter):
            raise pickle.UnpicklingError(f"it sets items of a {type(target).__name__}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            put(target, key, value)

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        self._set_items(items)

    def load_additems(self) -> None:
        items = self.pop_mark()
        if type(self.stack[-1]) is not set:
            raise pickle.UnpicklingError(f"it adds items to a {type(self.stack[-1]).__name__}")
        add_all(self.stack[-1], items)

    def load_frozenset(self) -> None:
        items = self.pop_mark()
        self.append(frozenset(add_all(set(), items)))

    def load_bytearray8(self) -> None:
        count = int.from_bytes(self.read(8), "little")
        self.append(bytearray(self.read(min(count, self._size + 1))))

    def load_refused(self) -> None:
        raise pickle.UnpicklingError("it has an instruction that plain data do not need")


def _instructions() -> dict[int, Callable[[Any], None]]:
    """Return what each instruction of a pickle does. Those that could do harm differ from Python's."""
    table = dict(pickle._Unpickler.dispatch)
    for code, name in (
        (pickle.REDUCE, "reduce"),
        (pickle.NEWOBJ, "reduce"),
        (pickle.BUILD, "build"),
        (pickle.APPEND, "append"),
        (pickle.APPENDS, "appends"),
        (pickle.SETITEM, "setitem"),
        (pickle.SETITEMS, "setitems"),
        (pickle.DICT, "dict"),
        (pickle.ADDITEMS, "additems"),
        (pickle.FROZENSET, "frozenset"),
        (pickle.BYTEARRAY8, "bytearray8"),
        *(
            (code, "refused")
            for code in (
                pickle.INST,
                pickle.OBJ,
                pickle.NEWOBJ_EX,
                pickle.EXT1,
                pickle.EXT2,
                pickle.EXT4,
                pickle.PERSID,
                pickle.NEXT_BUFFER,
                pickle.READONLY_BUFFER,
            )
        ),
    ):
        table[code[0]] = getattr(_PlainUnpickler, f"load_{name}")
    return table


_PlainUnpickler.dispatch = _instructions()
