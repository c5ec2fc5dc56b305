"""What a hospital lets the answers to statistical questions tell: limits that its own code looks at before anything leaves."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from aimer2.core.task import Document


class Disclosure(Document):
    """A hospital's own limits; a question that would go beyond one is refused there, with the reason."""

    minimum_cell: int = Field(default=10, ge=1, description="an answer rests on no patients or on so many, also within each category it looks at")
    patients_per_parameter: float = Field(default=3, ge=1, description="a regression with fewer patients per coefficient is refused as saturated")
    exact_values: Literal["never", "secure", "always"] = Field(
        default="secure",
        description="whether sums may follow single values (times of events, quantiles): never, only where nobody sees this site's sums, or always",
    )
    extremes: bool = Field(default=False, description="whether minimum and maximum may be told: each is one patient's value")

    questions: int = Field(default=200, ge=1, description="so many questions of one researcher to one data set are answered in `question_days`")
    question_days: float = Field(default=30, gt=0, description="for how long a question counts towards `questions`")
    together: Literal["refuse", "secure", "always"] = Field(
        default="secure",
        description="whether a question is answered that, with earlier ones, tells of fewer patients than `minimum_cell`, or as much as a saturated "
        "model: never (refuse), only where nobody sees this site's sums (secure), or always; what is answered is noted in the audit log",
    )

    def allows_together(self, *, secure: bool) -> bool:
        """``secure``: nobody sees this site's sums alone."""
        return self.together == "always" or (secure and self.together == "secure")

    def allows_exact_values(self, *, secure: bool) -> bool:
        """``secure``: nobody sees this site's sums alone."""
        return self.exact_values == "always" or (secure and self.exact_values == "secure")

    def is_small(self, patients: int) -> bool:
        """Whether an answer would tell of somebody, but of too few."""
        return 0 < patients < self.minimum_cell
