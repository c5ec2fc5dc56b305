"""What can go wrong, as one tree with stable codes.

AimerError
├── BadInput              what was handed in is not usable          (400)
│   ├── BadStudy            the study document has faults
│   ├── BadData             a data set does not meet the study's contract
│   ├── BadModel            model code or weights do not fit
│   └── BadUpdate           an update has wrong shapes or is not finite
├── NotAuthenticated      who asks is not known                     (401)
│   └── ClockSkew           the assertion's time is off by minutes
├── NotAllowed            who asks may not                          (403)
│   ├── NotApproved         this digest has no approval at this site
│   ├── TooManyAttempts     too many log-ins have failed
│   ├── NotVerified         a site's key has not been verified here by a person
│   └── Frozen              everything was stopped here, until somebody thaws it
├── NotFound              no such thing                             (404)
├── Conflict              it contradicts what is already recorded   (409)
│   └── Tampered            bytes do not match their digest or signature
├── NotAvailable          asked for, but this installation has it not (422)
│   └── VersionMismatch     the other side speaks another version
├── NoResult              a study has paused or ended without one   (409)
├── TooLarge              over a stated limit                       (413)
├── OutOfResources        disk, memory or quota is used up          (507)
└── Unreachable           the other side did not answer             (503)

Each class has a ``code`` that never changes and a ``remedy`` that says what to do. An instance adds one public sentence. Nothing of a
patient's record may ever stand in that sentence: a site sends the code and the class's own text, never an exception's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final


class AimerError(Exception):
    """Something went wrong that has no name of its own."""

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    remedy: ClassVar[str] = "Look into the log of this process; if it comes again, report it with the code."

    def __init__(self, sentence: str = "", *, remedy: str | None = None) -> None:
        super().__init__(sentence or type(self).title())
        self.advice = remedy or type(self).remedy

    @classmethod
    def title(cls) -> str:
        """What every error of the class has in common."""
        return (cls.__doc__ or cls.code).strip().splitlines()[0]

    @property
    def sentence(self) -> str:
        said: str = self.args[0]
        return said


class BadInput(AimerError):
    """What was handed in is not usable."""

    code = "bad-input"
    status = 400
    remedy = "Correct the named value and try again."


@final
@dataclass(frozen=True, slots=True)
class Fault:
    """One fault of a document: where it is, what it is, what to do."""

    place: str
    problem: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.place}: {self.problem} — {self.remedy}"


class BadStudy(BadInput):
    """The study document has faults."""

    code = "bad-study"
    remedy = "Correct each fault; `aimer2 study check` lists them all."

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__("The study has faults:\n" + "\n".join(f"  {fault}" for fault in faults))
        self.faults = tuple(faults)


class BadData(BadInput):
    """The data set does not meet what the study asks for."""

    code = "bad-data"
    remedy = "Compare the data set with the study's cohort; `aimer2 site dataset list` shows its columns."


class BadModel(BadInput):
    """The model's code or weights do not fit the study."""

    code = "bad-model"
    remedy = "Run `aimer2 simulate` with the same study: it loads the model the same way."


class BadUpdate(BadInput):
    """An update has the wrong shape or type, or a value that is not finite."""

    code = "bad-update"
    remedy = "Lower the learning rate or check the features' scaling: a loss that is not finite leaves no update."


class NotAuthenticated(AimerError):
    """Who asks could not be identified."""

    code = "not-authenticated"
    status = 401
    remedy = "Log in again, or enrol the site with a new invitation."


class ClockSkew(NotAuthenticated):
    """The clocks of the two sides differ by more than the allowed time."""

    code = "clock-skew"
    remedy = "Set this machine's clock (NTP) and try again."


class NotAllowed(AimerError):
    """Who asks may not do this."""

    code = "not-allowed"
    status = 403
    remedy = "Ask an operator of the coordinator for the role that this needs."


class NotApproved(NotAllowed):
    """No valid approval of this exact study exists at this site."""

    code = "not-approved"
    remedy = "A named person at the site approves it with `aimer2 site approve`."


class TooManyAttempts(NotAllowed):
    """Too many log-ins have failed."""

    code = "too-many-attempts"
    status = 429
    remedy = "Wait a minute, then try again."


class NotVerified(NotAllowed):
    """A key of the study's roster has not been verified at this site."""

    code = "not-verified"
    remedy = "A named person at the site compares fingerprints by telephone: `aimer2 site roster show`, then `aimer2 site roster verify`."


class Frozen(NotAllowed):
    """Everything is stopped here at a person's word."""

    code = "frozen"
    remedy = "Wait until it is thawed; who froze it, and why, is in the audit log and in the sentence above."


class BudgetExceeded(NotAllowed):
    """The privacy budget of the data set at this site does not allow it."""

    code = "budget-exceeded"
    remedy = "Ask for less (more noise, fewer rounds), or ask the site to raise the budget, which two named persons there decide."


class NotFound(AimerError):
    """There is no such thing."""

    code = "not-found"
    status = 404
    remedy = "Check the name or digest."


class Conflict(AimerError):
    """It contradicts what is already recorded."""

    code = "conflict"
    status = 409
    remedy = "Look at what is recorded; a changed study is a new study."


class Tampered(Conflict):
    """Bytes do not match their digest or their signature."""

    code = "tampered"
    remedy = "Transfer it again; if it comes again, somebody or something on the way changes the bytes."


class NotAvailable(AimerError):
    """It was asked for, but this installation does not have it."""

    code = "not-available"
    status = 422
    remedy = "Install the named extra, or ask for something that is available."


class VersionMismatch(NotAvailable):
    """The two sides speak different versions."""

    code = "version-mismatch"
    remedy = "Bring the older side to the newer version."


class NoResult(AimerError):
    """The study has paused or ended without a result."""

    code = "no-result"
    status = 409
    remedy = "The reasons that the sites gave say what to change: the study, the data, or a site."


class TooLarge(AimerError):
    """It is over the stated limit."""

    code = "too-large"
    status = 413
    remedy = "Send less, or ask the operator to raise the limit."


class OutOfResources(AimerError):
    """Disk, memory or a quota is used up."""

    code = "out-of-resources"
    status = 507
    remedy = "Free room or raise the quota; what was stored so far is kept and the work goes on from there."


class Unreachable(AimerError):
    """The other side did not answer."""

    code = "unreachable"
    status = 503
    remedy = "Check the address, the proxy and that the other side runs; nothing was lost."


def catalogue() -> dict[str, type[AimerError]]:
    """Every error class by its code; one that has only its parent's is a way to raise the parent."""
    found: dict[str, type[AimerError]] = {}
    todo: list[type[AimerError]] = [AimerError]
    while todo:
        error = todo.pop()
        if "code" in vars(error):
            found[error.code] = error
        todo.extend(error.__subclasses__())
    return found
