"""The names of the columns in every prepared table; a data config maps the shop's names to these."""

USER_ID = "user_id"
ITEM_ID = "item_id"
TIMESTAMP = "timestamp"
EVENT_TYPE = "event_type"
EVENT_WEIGHT = "event_weight"
BASKET_ID = "basket_id"
QUANTITY = "quantity"
VALUE = "value"
RANK = "rank"
SCORE = "score"
PURPOSE = "purpose"
GRANTED = "granted"
WITHDRAWN = "withdrawn"

REQUIRED_EVENT_COLUMNS = (USER_ID, ITEM_ID, TIMESTAMP)
ID_COLUMNS = (USER_ID, ITEM_ID, BASKET_ID)
OPTIONAL_EVENT_COLUMNS = (EVENT_TYPE, BASKET_ID, QUANTITY, VALUE)
CONSENT_COLUMNS = (USER_ID, PURPOSE, GRANTED, WITHDRAWN)
