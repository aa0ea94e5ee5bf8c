"""An operator with as many arguments and template fields as this provider's, which it only keeps, one by one."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.providers.common.compat.sdk import BaseOperator


class Keeping(BaseOperator):
    template_fields = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven")

    def __init__(
        self,
        *,
        one: Any,
        two: Any,
        three: Any = None,
        four: Any = None,
        five: Any = None,
        six: Any = None,
        seven: Any = None,
        eight: Any = None,
        nine: Any = None,
        ten: Any = timedelta(hours=6),
        eleven: Any = "conn_default",
        twelve: Any = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.one = one
        self.two = two
        self.three = three
        self.four = four
        self.five = five
        self.six = six
        self.seven = seven
        self.eight = eight
        self.nine = nine
        self.ten = ten
        self.eleven = eleven
        self.twelve = twelve
