"""What did the user ask for? The settings, and the file that they come from."""

from rc_push.config.file import find_config, load, load_control, load_journal, load_routes, with_lines
from rc_push.config.settings import (
    DEFAULT_SERVER,
    NAMED_TABLES,
    TABLES,
    TRANSPORTS,
    AccountConfig,
    Config,
    HandlerConfig,
    JournalConfig,
    LogConfig,
    NetworkConfig,
    Option,
    RetryConfig,
    Secret,
    ServiceConfig,
    SubscriptionConfig,
    options,
)
from rc_push.config.values import is_loopback

__all__ = [
    "DEFAULT_SERVER",
    "NAMED_TABLES",
    "TABLES",
    "TRANSPORTS",
    "AccountConfig",
    "Config",
    "HandlerConfig",
    "JournalConfig",
    "LogConfig",
    "NetworkConfig",
    "Option",
    "RetryConfig",
    "Secret",
    "ServiceConfig",
    "SubscriptionConfig",
    "find_config",
    "is_loopback",
    "load",
    "load_control",
    "load_journal",
    "load_routes",
    "options",
    "with_lines",
]
