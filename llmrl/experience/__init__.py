"""From judged responses to experience: credit, what is kept, what is compared, and offline data."""

from llmrl.experience import preference as _preference
from llmrl.experience import risk as _risk

del _preference, _risk
