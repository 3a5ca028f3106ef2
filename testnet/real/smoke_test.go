package real
import ("testing";"context";"time";"fmt";"sort")
func TestSmoke(t *testing.T){
 ctx,c:=context.WithTimeout(context.Background(),60*time.Second);defer c()
 f,err:=Start(ctx,Config{Binary:"/tmp/up-cs",Addresses:Loopback(3),Names:[]string{"www.example.com","example.com"}})
 if err!=nil{t.Fatal(err)}
 err=f.Await(ctx,Served)
 var ev []Event
 for _,n:=range f.Nodes{ev=append(ev,n.Log.Events()...)}
 for _,e:=range f.CA.Events(){ev=append(ev,Event{Time:e.Time,Node:"ca",Text:string(e.Kind)+" "+e.Detail+fmt.Sprint(e.Status)})}
 sort.Slice(ev,func(i,j int)bool{return ev[i].Time.Before(ev[j].Time)})
 for _,e:=range ev{fmt.Println(e)}
 for _,n:=range f.Nodes{fmt.Println(n.Fetches())}
 if err!=nil{t.Error(err)}
 if err:=f.Stop();err!=nil{t.Error(err)}
 f.Remove()
}
