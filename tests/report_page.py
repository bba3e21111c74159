"""Reading a report page: its elements, and what their pointers point to."""

from html.parser import HTMLParser
from typing import Any

EMPTY = {"meta", "link", "br", "img", "input"}


class Element:
    """An element with its attributes, its children and its texts."""

    def __init__(self, tag: str, attributes: dict[str, str], parent: "Element | None"):
        self.tag, self.attributes, self.parent = tag, attributes, parent
        self.children: list[Element | str] = []

    def all(self, tag: str | None = None, having: str | None = None) -> "list[Element]":
        found = []
        for child in self.children:
            if isinstance(child, Element):
                if tag in (None, child.tag) and (having is None or having in child.attributes):
                    found.append(child)
                found += child.all(tag, having)
        return found

    @property
    def text(self) -> str:
        return "".join(c if isinstance(c, str) else c.text for c in self.children)

    def above(self) -> "list[Element]":
        return [self.parent, *self.parent.above()] if self.parent else []


class Parser(HTMLParser):
    def __init__(self):
        super().__init__()
        self.root = self.here = Element("root", {}, None)

    def handle_starttag(self, tag, attrs):
        child = Element(tag, {k: v or "" for k, v in attrs}, self.here)
        self.here.children.append(child)
        if tag not in EMPTY:
            self.here = child

    def handle_startendtag(self, tag, attrs):
        self.here.children.append(Element(tag, {k: v or "" for k, v in attrs}, self.here))

    def handle_endtag(self, tag):
        assert tag == self.here.tag, f"</{tag}> closes <{self.here.tag}>"
        assert self.here.parent is not None
        self.here = self.here.parent

    def handle_data(self, data):
        self.here.children.append(data)


def parsed(page: str) -> Element:
    """The elements of a page; every element that is opened must be closed."""
    parser = Parser()
    parser.feed(page)
    parser.close()
    assert parser.here is parser.root
    return parser.root


def pointed(document: Any, pointer: str) -> Any:
    """What a JSON pointer points to."""
    for part in pointer.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        document = document[int(key)] if isinstance(document, list) else document[key]
    return document


def leaves(document: Any, path: str = "") -> list[tuple[str, Any]]:
    """Every value of a document that is neither list nor dict, with its pointer."""
    if isinstance(document, dict):
        parts = [(k.replace("~", "~0").replace("/", "~1"), v) for k, v in document.items()]
    elif isinstance(document, list):
        parts = list(enumerate(document))
    else:
        return [(path, document)]
    return [leaf for key, value in parts for leaf in leaves(value, f"{path}/{key}")]
