"""Whether an answer is Swift's, by the request id that Swift sends with each.

A proxy or a captive portal may answer for Swift, with a page and any status. What has a proof of its own is
checked by who reads it as well: a listing has a count, a PUT and the bytes of an object have an ETag, a bulk
delete has a verdict. A DELETE, a POST and a 404 have none.
"""

from collections.abc import Mapping

from swiftfs.store.error_map import REQUEST_IDS, foreign_answer
from swiftfs.store.request import Request


class RequestIds:
    """Tells other answers from a server's, once that has sent an id. It needs no lock: each call is one step.

    A proxy may remove the headers that it does not know, or replace each page of an error by one of its own.
    So an id is expected of successes when one of them had it, and of 404s when one of those had it: the write
    probe of a mount is answered so.
    """

    def __init__(self) -> None:
        self._expected: set[bool] = set()

    def check(self, request: Request, status: int, headers: Mapping[str, str]) -> None:
        """Raise `NotSwift` for a success or a 404 that is not Swift's.

        Any other error may come from a proxy before Swift as well: then nothing was done. So may the answer
        to `/info`, and a refusal of a bulk delete, whose names are deleted one by one then.
        """
        is_success = 200 <= status < 300
        if not (is_success or status == 404) or request.info:
            return
        if any(headers.get(name) for name in REQUEST_IDS):
            self._expected.add(is_success)
        elif is_success in self._expected and not request.has_verdict:
            raise foreign_answer(request, status, f"it has no {REQUEST_IDS[0]}")
