from django.urls import path

from shop import views

urlpatterns = [
    path("search", views.search),
    path("product/<int:number>", views.product),
]
