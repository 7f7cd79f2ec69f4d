ALLOWED_HOSTS = ["127.0.0.1"]
MIDDLEWARE = ["shop.tidy.Tidy"]
ROOT_URLCONF = "shop.urls"
# Nothing is signed or stored.
SECRET_KEY = "of no use to anybody"
USE_TZ = True
