from dataclasses import dataclass
@dataclass(frozen=True)
class Download:
    url: str
    sha256: str
    to: str
def parse_downloads(value, faults): return []
def download_all(items, root): pass
